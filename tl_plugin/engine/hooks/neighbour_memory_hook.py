"""Keeps features and predictions of all target images."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import require_adaptation_model

from ..target_pass import TargetPass

_STATE = 'neighbour_memory'


@HOOKS.register_module()
class NeighbourMemoryHook(Hook):
    """Fill a memory of features and predictions of all target images before training.

    :class:`AaDAlignment` looks for neighbours in it; each step renews what it has of its images.
    All processes share the work. The memory is in the checkpoint: 4 bytes an image for each feature
    and each class.

    Args:
        pipeline: Transforms of the images. Defaults to None: those of ``test_dataloader``, or else
            ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If the target images can't be told apart, or are fewer than the neighbours.
    """

    @checked
    def __init__(self, pipeline: list | None = None) -> None:
        self.pipeline = pipeline
        self._saved: dict[str, Tensor] | None = None

    def before_train(self, runner: Runner) -> None:
        """Fill the memory; a resumed run continues with its own."""
        model = require_adaptation_model(runner.model, 'NeighbourMemoryHook')
        images = TargetPass(runner, 'NeighbourMemoryHook', self.pipeline)
        state, self._saved = self._saved, None
        if state is None:
            features, logits = images()
            state = dict(
                features=F.normalize(features.float()), probabilities=logits.float().softmax(1)
            )
        model.set_neighbour_memory(state, images.numbers)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the memory in the checkpoint."""
        state = unwrap(runner.model).neighbour_memory()
        if state is not None:
            save_hook_state(checkpoint, _STATE, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load it from the checkpoint of a resumed run."""
        if resumes(runner):
            self._saved = saved_hook_state(checkpoint, _STATE)
