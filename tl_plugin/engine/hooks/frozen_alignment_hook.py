"""Starts self-training from what frozen features tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.datasets.image_numbers import ImageNumbers
from tl_plugin.functional import check_rounds, surest_of_each_class
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.replayable_loader import build_loader
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import TARGET, require_adaptation_model

from ..frozen_alignment import FittedLayer, check_model, fit_last_layer
from ..loops.adaptation_loop import target_config
from ..loops.inherit import plain_pass

_STATE = 'frozen_alignment_labels'


@HOOKS.register_module()
class FrozenAlignmentHook(Hook):
    """Fits the last layer before training, as ``frozen_alignment`` does, and labels the target.

    All images go through the network once, as it is before training, see
    :func:`tl_plugin.engine.frozen_alignment.fit_last_layer`. The last layer is set to what was
    fitted, and the surest target images of each predicted class get it as their pseudo-label, for
    :class:`SelfTrainingAlignment`. The labels are in the checkpoint; a resumed run goes on with
    them. All processes share the work.

    Args:
        share: Share of the images of each predicted class that get a label, in (0, 1]. Defaults to
            0.6.
        shares: Of the rounds of pseudo-labels, see :class:`FrozenAlignmentLoop`. Defaults to 20%
            to 100%.
        inverse_penalty: C of the logistic regression. Defaults to 10.
        neighbours: Of each target image, to which pseudo-labels are spread after the rounds, see
            :func:`tl_plugin.functional.frozen_alignment`. Defaults to 0, not at all; the
            overlay frozen_alignment says what 10 gains and costs.
        mirror: Whether features are the mean over an image and its mirror image. Defaults to True.
        pipeline: Transforms of the images. Defaults to None: those of ``test_dataloader``, or else
            ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If an argument is out of its range, the model's last layer can't be fitted, the
            training has no pair of domains, or the target images can't be told apart.
    """

    # After the model has its weights and before hooks that keep a copy of them.
    priority = 'HIGH'

    @checked
    def __init__(
        self,
        share: float = 0.6,
        shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
        inverse_penalty: float = 10.0,
        neighbours: int = 0,
        mirror: bool = True,
        pipeline: list | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f'FrozenAlignmentHook: share must be in (0, 1], got {share}')
        check_rounds(shares, inverse_penalty, neighbours)
        self.share = share
        self.options = dict(
            shares=tuple(shares),
            inverse_penalty=inverse_penalty,
            neighbours=neighbours,
            mirror=mirror,
        )
        self.pipeline = pipeline
        self._labels: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Fit and label, unless the run is resumed."""
        model = require_adaptation_model(runner.model, 'FrozenAlignmentHook')
        source, target = (build_loader(runner, cfg, name) for name, cfg in self._loaders(runner))
        numbers = ImageNumbers({TARGET: target.dataset})
        if self._labels is None:
            check_model('self_training', runner, unwrap(model))
            name, options = type(self).__name__, self.options
            found = fit_last_layer(name, unwrap(model), source, target, numbers=numbers, **options)
            self._labels = self._choose(found, len(numbers))
        model.set_pseudo_labels(self._labels, numbers)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the labels in the checkpoint."""
        if self._labels is not None:
            save_hook_state(checkpoint, _STATE, self._labels)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load them from the checkpoint of a resumed run."""
        saved = saved_hook_state(checkpoint, _STATE)
        if saved is not None and resumes(runner):
            self._labels = saved.cpu()  # a resumed run loads its checkpoint to the GPU

    def _loaders(self, runner: Runner) -> list[tuple[str, dict]]:
        source, target = runner.cfg.train_dataloader, runner.cfg.train_cfg.get('target_dataloader')
        if 'target' not in getattr(runner.train_loop.dataloader, 'domains', ()) or not target:
            raise ValueError(
                'FrozenAlignmentHook fits the last layer to source and target images, and this '
                "training has no pair of them: set train_cfg.type to 'AdaptationTrainLoop' and "
                'train_cfg.target_dataloader'
            )
        target = target_config(source, target)
        return [
            (name, plain_pass(runner.cfg, cfg, self.pipeline))
            for name, cfg in (('source', source), ('target', target))
        ]

    def _choose(self, found: FittedLayer, count: int) -> Tensor:
        """Return the label of each target image by its number, -1 for those that get none."""
        numbers, probabilities = found.numbers.cpu(), found.probabilities.cpu()
        kept = surest_of_each_class(probabilities, self.share)
        labels = torch.full((count,), -1)
        labels[numbers[kept]] = probabilities.argmax(1)[kept]
        counts = labels[labels >= 0].bincount(minlength=probabilities.shape[1]).tolist()
        print_log(
            f'FrozenAlignmentHook: {int((labels >= 0).sum())} of {count} target images have a '
            f'pseudo-label; images a class {counts}.',
            logger='current',
        )
        return labels
