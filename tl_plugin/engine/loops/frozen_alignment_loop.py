"""Adapts the last layer alone, on features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpretrain.registry import LOOPS

from tl_plugin.stack.model_wrappers import unwrap

from ..frozen_alignment import check_model, fit_last_layer
from .adaptation_loop import pair_loaders, target_config
from .inherit import plain_pass
from .interpolation_loop import NoTrainingLoop


@LOOPS.register_module()
class FrozenAlignmentLoop(NoTrainingLoop):
    """Fit the last layer to the target on the frozen network's features, without target labels.

    All images go through the network once, as the test's pipeline gives them, and once more
    mirrored. On their features, standardized per domain, a logistic regression learns the source's
    labels and then class-balanced pseudo-labels of the target, see
    :func:`tl_plugin.functional.frozen_alignment`. The result, with the target's standardization, is
    folded into the head's linear layer: the checkpoint is one of the config's own network, for
    target images.

    Args:
        runner: The runner.
        dataloader: The source: the config's ``train_dataloader``.
        target_dataloader: The target; what it leaves out is inherited from ``train_dataloader``.
            Its labels are never read. Defaults to None, which is refused.
        shares: Share of each predicted class that each round of pseudo-labels learns from, the
            surest first. Defaults to 20% to 100%; ``[]`` for no round.
        inverse_penalty: C of the logistic regression. Defaults to 10.
        neighbours: Of each target image, to which pseudo-labels are spread after the rounds, see
            :func:`tl_plugin.functional.frozen_alignment`. Defaults to 0, not at all; the
            overlay frozen_alignment says what 10 gains and costs.
        mirror: Whether features are the mean over an image and its mirror image, which costs
            another pass. Defaults to True.
        pipeline: Transforms of the images. Defaults to None: those of ``test_dataloader``, or else
            ``val_dataloader``, or else of the training.

    Raises:
        ValueError: If there is no target, the head has no linear layer with a bias on
            ``head.pre_logits``, the neck has weights that nobody has trained, or an argument is out
            of its range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        target_dataloader: Any = None,
        shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
        inverse_penalty: float = 10.0,
        neighbours: int = 0,
        mirror: bool = True,
        pipeline: list | None = None,
    ) -> None:
        target = target_config(dataloader, target_dataloader)
        source, target = (
            plain_pass(runner.cfg, loader, pipeline) if isinstance(loader, dict) else loader
            for loader in (dataloader, target)
        )
        model = unwrap(runner.model)
        check_model('frozen_alignment', runner, model)
        _check_options(model)
        super().__init__(runner, pair_loaders(runner, source, target))
        self.options = dict(
            shares=tuple(shares),
            inverse_penalty=inverse_penalty,
            neighbours=neighbours,
            mirror=mirror,
        )

    def change(self, model: Any) -> None:
        """Compute the features, fit, and set the last layer."""
        pair = self.dataloader
        fit_last_layer(type(self).__name__, model, pair.source, pair.target.loader, **self.options)


def _check_options(model: Any) -> None:
    """Refuse what would have no effect."""
    if getattr(model.data_preprocessor, 'labelled_target', None) is not None:
        raise ValueError(
            'frozen_alignment uses no target label, and data_preprocessor.labelled_target lists '
            'some: leave it out, or take feature_extraction or joint training, which learn them'
        )
    unused = [*getattr(model, 'alignments', ()), *getattr(model, 'regularizers', ())]
    if unused:
        raise ValueError(
            f'frozen_alignment takes no training step, so that {", ".join(unused)} would do '
            'nothing: leave them out'
        )
