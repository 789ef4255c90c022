from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from mmengine.logging import print_log
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.datasets.bad_data import check_batches
from tl_plugin.reliability.checkpoints import resumes
from tl_plugin.reliability.class_sets import check_width, dataset_classes
from tl_plugin.reliability.data_identity import check_root
from tl_plugin.reliability.replayable_loader import ReplayableLoader, build_loader
from tl_plugin.reliability.resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from tl_plugin.reliability.seeds import TARGET_STREAM
from tl_plugin.stack.options import type_name

from .adaptation_loop import _Adaptation, check_labelled_target, check_length, refuse_strategies
from .inherit import add_strong_view, unlabelled_dataloader
from .paired_loader import TargetLoader


class _TargetAlone(_Adaptation):
    def __init__(
        self, runner: Any, dataloader: Any, strong_view: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(runner, _target_loader(runner, dataloader, strong_view), **kwargs)


@LOOPS.register_module()
class SourceFreeEpochTrainLoop(_TargetAlone, ResumableEpochTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` on the target alone, see :func:`SourceFreeTrainLoop`."""


@LOOPS.register_module()
class SourceFreeIterTrainLoop(_TargetAlone, ResumableIterTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` on the target alone, see :func:`SourceFreeTrainLoop`."""


@LOOPS.register_module()
def SourceFreeTrainLoop(
    runner: Any,
    dataloader: Union[DataLoader, dict],
    max_epochs: int | None = None,
    max_iters: int | None = None,
    strong_view: Sequence[dict] | None = None,
    **kwargs: Any,
) -> Union[SourceFreeEpochTrainLoop, SourceFreeIterTrainLoop]:
    """Adapt a source model on target images without labels, and without source images.

    Args:
        runner: The runner.
        dataloader: The target: the config's ``train_dataloader``.
        max_epochs: Length in epochs, to train by epoch. Defaults to None.
        max_iters: Length in iterations, to train by iteration; one of the two has to be given.
            Defaults to None.
        strong_view: See :func:`AdaptationTrainLoop`. Defaults to None.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in mmengine's loops.

    Returns:
        The loop by epoch or by iteration.

    Raises:
        ValueError: If there is no source model, no image or a head of another width, images are
            drawn by their labels or read elsewhere than in ``data_root``, or not exactly one
            of ``max_epochs`` and ``max_iters`` is given.
        NotImplementedError: With a ``FlexibleRunner``.
    """
    check_length('SourceFreeTrainLoop', max_epochs, max_iters, **kwargs)
    refuse_strategies('SourceFreeTrainLoop', runner)
    if max_epochs is not None:
        return SourceFreeEpochTrainLoop(
            runner, dataloader, strong_view, max_epochs=max_epochs, **kwargs
        )
    return SourceFreeIterTrainLoop(runner, dataloader, strong_view, max_iters=max_iters, **kwargs)


def _target_loader(runner: Any, loader: Any, strong_view: Any) -> TargetLoader:
    own_weights = type_name((runner.cfg.get('model') or {}).get('init_cfg') or {})
    trained = own_weights in ('Pretrained', 'PretrainedInit')
    if not runner._load_from and not resumes(runner) and not trained:
        raise ValueError(
            'adaptation without a source starts from a model that was trained on it, head '
            'included: set load_from to its checkpoint'
        )
    if isinstance(loader, dict) and isinstance(loader.get('dataset'), dict):
        loader = unlabelled_dataloader(loader, 'train_dataloader')
    if strong_view is not None:
        loader = add_strong_view(loader, strong_view)
    loader = build_loader(runner, loader, 'target')
    check_root(loader.dataset, 'train_dataloader')
    check_batches('target', loader)
    check_width('target', dataset_classes(loader.dataset), runner.model)
    target = TargetLoader(ReplayableLoader.of(loader, runner.seed, TARGET_STREAM))
    check_labelled_target(runner.model, target.dataset)
    print_log(
        f'Adaptation without a source: {len(target.dataset)} target images in {len(target)} '
        f'batches of {target.batch_size} a pass and rank.',
        logger='current',
    )
    return target
