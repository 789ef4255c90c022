"""Keeps the adapters of LoRA apart from the weights beside them."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn

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

from ..low_rank import adapted_modules, adapter_state, load_adapters, set_layers

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
        self._saved: list[dict[str, Tensor]] = []

    def before_run(self, runner: Runner) -> None:
        """Refuse a model without adapters."""
        if not adapted_modules(unwrap(runner.model)):
            raise ValueError(
                f'LoRAHook: this {type(unwrap(runner.model)).__name__} has no adapters: set '
                "model.type='LoRAClassifier', as the overlay lora does"
            )

    def before_train(self, runner: Runner) -> None:
        """Start from a file of adapters, or go on with those of the checkpoint."""
        models = _models(runner)
        layers = adapted_modules(models[0])
        if not any(part.requires_grad for m in layers.values() for part in (m.lora_a, m.lora_b)):
            raise ValueError(
                f'LoRAHook: the adapters of all {len(layers)} layers are frozen, so that lora '
                'would do nothing: leave out what freezes them, such as the strategy '
                'feature_extraction, or leave out lora'
            )
        if resumes(runner):
            # Now that all is loaded: before, an EMAHook exchanges weights in the checkpoint.
            for model, state in zip(models, self._saved):
                set_layers(model, state)
        elif self.adapters is not None:
            content = torch.load(self.adapters, map_location='cpu', weights_only=True)
            load_adapters(models[0], weights_of(content, self.adapters))
            for average in models[1:]:
                set_layers(average, adapter_state(models[0], whole=True))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save adapters and weights apart, of the model and of its averages."""
        state = [adapter_state(model, whole=True) for model in _models(runner)]
        save_hook_state(checkpoint, _STATE, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep both for a resumed run."""
        if resumes(runner):
            self._saved = saved_hook_state(checkpoint, _STATE) or []

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


def _models(runner: Runner) -> list[nn.Module]:
    """Return the model, and its averages."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return [unwrap(runner.model), *averages]
