"""Keeps the adapters of LoRA apart from the weights beside them."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.reliability.checkpoints import (
    ADAPTERS,
    resumes,
    save_hook_state,
    saved_hook_state,
    weights_of,
)
from tl_plugin.reliability.files import write_whole
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked

from ..low_rank import adapted_modules, adapter_state, load_adapters

_STATE = 'lora'


@HOOKS.register_module()
class LoRAHook(Hook):
    """Resume with adapters as they were, write them alone, and start from such a file.

    A checkpoint's weights have the adapters added to them. Beside these it holds the adapters and
    the weights of their layers, so that a resumed run continues to the bit; at the end of
    training the adapters alone are written to ``adapters.pth`` in the work folder, with their
    options and the names of classes: a file that mmpretrain's ``publish_model.py`` takes, too.

    Args:
        adapters: Such a file, to start from beside the weights that it was trained beside.
            Defaults to None.

    Raises:
        ValueError: If the model has no adapters, all are frozen, or the file's are of another
            model.
        FileNotFoundError: If there is no such file.
    """

    @checked
    def __init__(self, adapters: str | None = None) -> None:
        if adapters is not None and not Path(adapters).is_file():
            raise FileNotFoundError(f'LoRAHook: no adapters at {Path(adapters).absolute()}')
        self.adapters = adapters

    def before_run(self, runner: Runner) -> None:
        """Refuse a model without adapters."""
        if not adapted_modules(unwrap(runner.model)):
            raise ValueError(
                f'LoRAHook: this {type(unwrap(runner.model)).__name__} has no adapters: set '
                "model.type='LoRAClassifier', as the overlay lora does"
            )

    def before_train(self, runner: Runner) -> None:
        """Start from a file of adapters."""
        layers = adapted_modules(unwrap(runner.model))
        if not any(part.requires_grad for m in layers.values() for part in (m.lora_a, m.lora_b)):
            raise ValueError(
                f'LoRAHook: the adapters of all {len(layers)} layers are frozen, so that lora '
                'would do nothing: leave out what freezes them, such as the strategy '
                'feature_extraction, or leave out lora'
            )
        if self.adapters is not None and not resumes(runner):
            content = torch.load(self.adapters, map_location='cpu', weights_only=True)
            load_adapters(unwrap(runner.model), weights_of(content, self.adapters))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save adapters and weights apart."""
        state = adapter_state(unwrap(runner.model), whole=True)
        save_hook_state(checkpoint, _STATE, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Give a resumed run both as they were."""
        if resumes(runner):
            checkpoint['state_dict'].update(saved_hook_state(checkpoint, _STATE) or {})

    def after_train(self, runner: Runner) -> None:
        """Write the adapters alone."""
        path, content = Path(runner.work_dir, ADAPTERS), io.BytesIO()
        state = adapter_state(unwrap(runner.model))
        info = getattr(runner.train_loop.dataloader.dataset, 'metainfo', None)
        meta = dict(lora=dict(runner.cfg.model.get('lora') or {}), dataset_meta=dict(info or {}))
        torch.save(dict(meta=meta, state_dict=state), content)
        on_main_process(lambda: write_whole(path, content.getvalue()))
        count = sum(value.numel() for value in state.values())
        print_log(f'LoRA: {count:,} weights of adapters are in {path}.', logger='current')
