"""Finds labels of target images by class centroids."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.functional import centroid_pseudo_labels
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import require_adaptation_model

from ..target_pass import TargetPass, target_loader

_STATE = 'centroid_pseudo_labels'


@HOOKS.register_module()
class CentroidPseudoLabelHook(Hook):
    """Labels all target images by the nearest class centroid, again and again.

    See :func:`tl_plugin.functional.centroid_pseudo_labels`; Liang et al., SHOT, ICML 2020, arXiv
    2002.08546. :class:`CentroidPseudoLabelAlignment` learns them. All processes share the work.
    The labels are in the checkpoint.

    Args:
        interval: Epochs, in a loop by epoch, or iterations from one labelling to the next. Defaults
            to 1 epoch, or a pass over the target images.
        rounds: How often centroids are computed again from the labels. Defaults to 1.
        pipeline: Transforms of the images that are labelled. Defaults to None: those of
            ``test_dataloader``, or else ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If an argument is out of its range, or the target images can't be told apart.
    """

    # After the model has its weights and before the epoch's first step.
    priority = 'NORMAL'

    @checked
    def __init__(
        self, interval: int | None = None, rounds: int = 1, pipeline: list | None = None
    ) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'CentroidPseudoLabelHook: interval must be >= 1, got {interval}')
        if rounds < 0:
            raise ValueError(f'CentroidPseudoLabelHook: rounds must be >= 0, got {rounds}')
        self.interval = interval
        self.rounds = rounds
        self.pipeline = pipeline
        self._labels: Tensor | None = None
        self._images: TargetPass | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the loader; a resumed run continues with its labels."""
        model = require_adaptation_model(runner.model, 'CentroidPseudoLabelHook')
        self._images = TargetPass(runner, 'CentroidPseudoLabelHook', self.pipeline)
        model.set_pseudo_labels(self._labels, self._images.numbers)

    def before_train_epoch(self, runner: Runner) -> None:
        """Labels before an epoch, in a loop by epoch."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and runner.epoch % (self.interval or 1) == 0 and not self._is_resumed(runner):
            self._label(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Labels before an iteration, in a loop by iteration."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            interval = self.interval or len(target_loader(runner, 'CentroidPseudoLabelHook'))
            if runner.iter % interval == 0 or self._labels is None:
                self._label(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the labels in the checkpoint."""
        if self._labels is not None:
            save_hook_state(checkpoint, _STATE, self._labels)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load them from the checkpoint of a resumed run."""
        saved = saved_hook_state(checkpoint, _STATE)
        if saved is not None and resumes(runner):
            self._labels = saved.cpu()  # a resumed run loads its checkpoint to the GPU

    def _is_resumed(self, runner: Runner) -> bool:
        """Whether this epoch was labelled before the run was interrupted in its middle."""
        done = getattr(runner.train_loop, '_batches_done', 0)
        return bool(done) and self._labels is not None

    def _label(self, runner: Runner) -> None:
        features, logits = self._images()
        labels = centroid_pseudo_labels(features, logits.softmax(dim=1), self.rounds)
        before, self._labels = self._labels, labels.cpu()
        unwrap(runner.model).set_pseudo_labels(self._labels, self._images.numbers)
        if before is not None:
            changed = (before != self._labels).float().mean().item()
            runner.message_hub.update_scalar('train/pseudo_labels_changed', changed)
        counts = self._labels.bincount(minlength=logits.shape[1]).tolist()
        print_log(f'CentroidPseudoLabelHook: images a class {counts}.', logger='current')
