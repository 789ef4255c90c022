"""Training on pairs of a labelled source batch and a target batch."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, Union

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.reliability.class_sets import (
    check_classes,
    check_target_classes,
    check_width,
    dataset_classes,
)
from tl_plugin.reliability.data_identity import check_source_and_target
from tl_plugin.reliability.replayable_loader import ReplayableLoader, build_loader
from tl_plugin.reliability.resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from tl_plugin.reliability.seeds import SOURCE_STREAM, TARGET_STREAM
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import check_option
from tl_plugin.stack.protocol import adaptation_model

from .inherit import add_strong_view, augment_further, inherit_dataloader
from .paired_loader import PairedLoader

_STOCK = inspect.signature(EpochBasedTrainLoop.__init__).parameters


def check_length(loop: str, max_epochs: Any, max_iters: Any, **others: Any) -> None:
    """Check the length of a train loop and the other options of its config.

    Args:
        loop: Its name, for messages.
        max_epochs: Its length by epoch, or None.
        max_iters: Its length by iteration, or None.
        **others: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in mmengine's loops.

    Raises:
        ValueError: If not exactly one length is given, or a number is out of range.
        TypeError: If one is no number, or an option is unknown.
    """
    if (max_epochs is None) == (max_iters is None):
        raise ValueError(
            f'{loop} trains by epoch (max_epochs) or by iteration (max_iters): give '
            f'one of them, got max_epochs={max_epochs} and max_iters={max_iters}'
        )
    for name in others:
        if name not in _STOCK:
            raise TypeError(
                f'{loop} has no option {name!r}: it takes max_epochs or max_iters, '
                'val_begin, val_interval, dynamic_intervals'
            )
    numbers = {'max_epochs': max_epochs, 'max_iters': max_iters, **others}
    intervals = numbers.pop('dynamic_intervals', None)
    check_option(loop, 'dynamic_intervals', intervals, 'list[list[int]] | None')
    for name, value in numbers.items():
        check_option(loop, name, value, 'int | None')
        if value is not None and value < 1:
            raise ValueError(f'{loop}: {name} must be at least 1, got {value}')


def refuse_strategies(loop: str, runner: Any) -> None:
    """Refuse a ``FlexibleRunner``, which builds the model after the loops.

    Args:
        loop: The loop's name, for the message.
        runner: The runner.

    Raises:
        NotImplementedError: If the runner has no model yet.
    """
    if isinstance(runner.model, dict):
        raise NotImplementedError(
            f"{loop} works with mmengine's Runner, and this config has runner_type="
            f'{type(runner).__name__!r} (FSDP, DeepSpeed), which has no model yet when its loops '
            'are made: take runner_type and strategy out of the config, several processes then '
            'train by DDP'
        )


# With one seed, two domains of one size would always be shuffled into the same pairs.
_TARGET_SEED_OFFSET = 1_000_003
_TARGET_KEY = 'train_cfg.target_dataloader'


class _Adaptation:
    """Give the model its progress before each step, and update its teacher."""

    def run_iter(self, *args: Any, **kwargs: Any) -> None:
        model = adaptation_model(self.runner.model)
        if model is not None:
            model.set_progress(min(self.iter / self.max_iters, 1.0))
            # Between two steps of an optimizer that accumulates gradients the weights are the same.
            if self.iter % getattr(self.runner.optim_wrapper, '_accumulative_counts', 1) == 0:
                model.update_teacher()
        super().run_iter(*args, **kwargs)


class _Paired(_Adaptation):
    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        target_dataloader: Any,
        strong_view: Sequence[dict] | None = None,
        strong_source: bool = False,
        **kwargs: Any,
    ) -> None:
        pair = _pair(runner, dataloader, target_dataloader, strong_view, strong_source)
        super().__init__(runner, pair, **kwargs)


@LOOPS.register_module()
class AdaptationEpochTrainLoop(_Paired, ResumableEpochTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` over pairs of batches, see :func:`AdaptationTrainLoop`."""


@LOOPS.register_module()
class AdaptationIterTrainLoop(_Paired, ResumableIterTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` over pairs of batches, see :func:`AdaptationTrainLoop`."""


@LOOPS.register_module()
def AdaptationTrainLoop(
    runner: Any,
    dataloader: Union[DataLoader, dict],
    target_dataloader: Union[DataLoader, dict, None] = None,
    max_epochs: int | None = None,
    max_iters: int | None = None,
    strong_view: Sequence[dict] | None = None,
    strong_source: bool = False,
    **kwargs: Any,
) -> Union[AdaptationEpochTrainLoop, AdaptationIterTrainLoop]:
    """Train on one labelled source batch and one target batch per iteration.

    An epoch is a pass over the source; the target cycles independently (:class:`PairedLoader`).
    Before each step the loop sets the model's progress in [0, 1].

    Args:
        runner: The runner.
        dataloader: The source: the config's ``train_dataloader``.
        target_dataloader: The target. What it doesn't set is inherited from ``train_dataloader``,
            key by key, see :func:`inherit_dataloader`. Defaults to None, which is refused.
        max_epochs: Length in epochs, to train by epoch. Defaults to None.
        max_iters: Length in iterations, to train by iteration; one of the two has to be given.
            Defaults to None.
        strong_view: Transforms of a second, strongly augmented view of each target image, for
            alignments that compare the two (:class:`PseudoLabelAlignment`). It goes through the
            target pipeline too. Defaults to None, one view.
        strong_source: Whether the source's images, which have one view, go through the transforms
            of ``strong_view``, too, after their own pipeline: what is learned from their labels
            then depends less on their style. Defaults to False.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in mmengine's loops.

    Returns:
        The loop by epoch or by iteration.

    Raises:
        ValueError: If there is no target, a domain has no images, both are the same images, the two
            domains' classes or the head's differ, not exactly one of ``max_epochs`` and
            ``max_iters`` is given, or ``strong_source`` has no transforms or a loader that is
            built already.
        TypeError: If ``strong_source`` is neither True nor False.
        NotImplementedError: With a ``FlexibleRunner``.
    """
    check_length('AdaptationTrainLoop', max_epochs, max_iters, **kwargs)
    check_option('AdaptationTrainLoop', 'strong_source', strong_source, 'bool')
    refuse_strategies('AdaptationTrainLoop', runner)
    data = (runner, dataloader, target_dataloader, strong_view, strong_source)
    if max_epochs is not None:
        return AdaptationEpochTrainLoop(*data, max_epochs=max_epochs, **kwargs)
    return AdaptationIterTrainLoop(*data, max_iters=max_iters, **kwargs)


def _pair(
    runner: Any, source: Any, target: Any, strong_view: Any, strong_source: bool
) -> PairedLoader:
    target = target_config(source, target)
    if strong_view is not None:
        target = add_strong_view(target, strong_view)
    if strong_source:
        if strong_view is None or not isinstance(source, dict):
            raise ValueError(
                "train_cfg.strong_source=True sends the source's images through the transforms of "
                'train_cfg.strong_view, too: give these, and train_dataloader as a config'
            )
        source = augment_further(source, strong_view)
    return pair_loaders(runner, source, target)


def target_config(source: Any, target: Any) -> Any:
    """Complete the target's loader by what it inherits from the source's.

    Args:
        source: The config's ``train_dataloader``.
        target: ``train_cfg.target_dataloader``; a loader that is built already passes as it is.

    Raises:
        ValueError: If there is none.
    """
    if target is None:
        raise ValueError(
            'adaptation needs target images and train_cfg.target_dataloader is missing: set it, '
            'for example --cfg-options train_cfg.target_dataloader.dataset.data_root=PATH; what it '
            'leaves out is inherited from train_dataloader'
        )
    built = not isinstance(target, dict) and hasattr(target, 'dataset')
    if not built and isinstance(source, dict):
        return inherit_dataloader(source, target, _TARGET_KEY)
    return target


def pair_loaders(runner: Any, source: Any, target: Any) -> PairedLoader:
    """Build both domains' loaders and check that they fit together.

    Args:
        runner: The runner, with its model.
        source: The source's loader or its config.
        target: The target's, complete.

    Raises:
        ValueError: If a domain has no images, both are the same images, or classes differ.
    """
    pair = PairedLoader(
        ReplayableLoader.of(build_loader(runner, source, 'source'), runner.seed, SOURCE_STREAM),
        ReplayableLoader.of(
            build_loader(runner, target, 'target', _TARGET_SEED_OFFSET), runner.seed, TARGET_STREAM
        ),
    )
    _check_classes(runner.model, pair.source.dataset, pair.target.loader.dataset)
    check_source_and_target(pair.source.dataset, pair.target.loader.dataset, _TARGET_KEY)
    check_labelled_target(runner.model, pair.target.loader.dataset)
    print_log(
        f'Adaptation: {len(pair.source.dataset)} source images in {len(pair.source)} batches of '
        f'{pair.source.batch_size}, {len(pair.target.loader.dataset)} target images in '
        f'{len(pair.target.loader)} batches of {pair.target.loader.batch_size} a pass and rank.',
        logger='current',
    )
    return pair


def _check_classes(model: Any, source: Any, target: Any) -> None:
    source_classes, target_classes = dataset_classes(source), dataset_classes(target)
    check_target_classes(source_classes, target_classes, f'{_TARGET_KEY}.dataset')
    for name, classes in (('source', source_classes), ('target', target_classes)):
        check_width(name, classes, model)
    check_classes('the source', source_classes, 'the target', target_classes)
    if not target_classes:
        print_log('The target data names no classes: taken as unlabelled.', 'current', logging.INFO)


def check_labelled_target(model: Any, dataset: Any) -> None:
    """Let the data preprocessor find the target images whose labels it keeps."""
    preprocessor = getattr(unwrap(model), 'data_preprocessor', None)
    if hasattr(preprocessor, 'check_target'):
        preprocessor.check_target(dataset)
