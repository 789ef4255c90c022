"""Trains on features that a frozen backbone has computed once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.reliability.replayable_loader import ReplayableLoader
from tl_plugin.reliability.resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from tl_plugin.reliability.seeds import generators_kept
from tl_plugin.stack.model_wrappers import unwrap

from ..feature_cache.extract import Extraction
from ..feature_cache.loader import CachedFeatureLoader, FeatureBatch
from ..feature_cache.stages import check_cacheable, freezing_hooks
from ..feature_cache.stepping import LightSteps
from ..freezing.trainable import optimizers
from .adaptation_loop import check_length, refuse_strategies

_DTYPES = ('float32', 'float16', 'bfloat16')
_OPTIONS = ('views', 'cache_dir', 'feature_dtype')
#: Up to so many multiplications and additions in a forward pass one thread is enough. Further ones
#: save a tenth of a millisecond on idle cores, and multiply the time of a step on busy ones.
_MAX_WORK_OF_ONE_THREAD = 20_000_000


class _CachedFeatures:
    """What both loops add: features in the place of images."""

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        views: int = 1,
        cache_dir: str | None = None,
        feature_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(runner, dataloader, **kwargs)
        if not isinstance(views, int) or views < 1:
            raise ValueError(
                f'train_cfg.views={views!r}: expected how many views of each image, 1 or more'
            )
        if feature_dtype not in (None, *_DTYPES):
            raise ValueError(
                f'train_cfg.feature_dtype={feature_dtype!r}: expected {", ".join(_DTYPES)}, or '
                'None to keep features as they are computed'
            )
        self.views, self.feature_dtype = views, feature_dtype
        self.cache_dir = Path(cache_dir or Path(runner.work_dir, 'feature_cache'))
        runner.register_hook(_FeaturesHook(self), priority='LOWEST')

    def _adopt_loader(self) -> None:
        if not isinstance(self.dataloader, CachedFeatureLoader):
            loader = ReplayableLoader.of(self.dataloader, self.runner.seed)
            if not isinstance(loader, ReplayableLoader) or loader.batch_sampler is None:
                raise ValueError(
                    'features can be cached of a data set whose images have an index, read in '
                    f'batches; train_dataloader is a {type(loader).__name__} over '
                    f'{type(getattr(loader, "dataset", None)).__name__}: use feature_extraction, '
                    'which caches nothing'
                )
            self.dataloader = CachedFeatureLoader(loader)
        super()._adopt_loader()

    def prepare(self) -> None:
        """Compute the features, or find them."""
        runner = self.runner
        model = unwrap(runner.model)
        context = functools.partial(runner.optim_wrapper.optim_context, model)
        runner.model.train()
        for hook in freezing_hooks(runner):
            hook.apply_modes(runner)
        check_cacheable(runner)
        with generators_kept():
            work = Extraction(
                model,
                self.dataloader.loader,
                context,
                self.cache_dir,
                self.views,
                self.feature_dtype,
            )
            store = work.store()
        self._stage = work.stage
        self.dataloader.fill(store, work.stage, next(model.parameters()).device)
        self._one_thread = self._is_light(model)
        self._frozen = self._stage.tensors()
        self._versions = self._count_changes()
        self._hash = fingerprint(self._frozen)
        self._steps = LightSteps(optimizers(runner), list(self._frozen.values()))

    def _is_light(self, model: torch.nn.Module) -> bool:
        """Whether a step is for one thread: by model and batch, so that a resumed run agrees."""
        trained = [value for value in model.parameters() if value.requires_grad]
        # After vectors each weight is used once an image; after maps or tokens more often.
        vectors = all(value.dim() == 2 for value in self._stage.features)
        work = self.dataloader.batch_size * sum(value.numel() for value in trained)
        on_cpu = all(value.device.type == 'cpu' for value in trained)
        return on_cpu and vectors and work <= _MAX_WORK_OF_ONE_THREAD

    def _count_changes(self) -> int:
        return sum(value._version for value in self._frozen.values())

    def check_frozen(self) -> None:
        """Check that nothing has changed with which the features were computed.

        Raises:
            RuntimeError: If something has.
        """
        trained = any(value.requires_grad for value in self._frozen.values())
        if not trained and self._count_changes() == self._versions:
            return
        if trained or fingerprint(self._frozen) != self._hash:
            raise RuntimeError(
                f'weights or statistics of the {", ".join(self._stage.modules)} have changed '
                'during the run, so that the cached features are not those of this model any more. '
                'A hook that unfreezes or adapts layers needs feature_extraction, which caches '
                'nothing'
            )
        self._versions = self._count_changes()

    def _run_step(self, idx: int, batch: FeatureBatch) -> None:
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=batch)
        with (
            _threads(1 if self._one_thread else None),
            self._stage.replaced(batch.features),
            self._steps.taken(),
        ):
            outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook('after_train_iter', batch_idx=idx, data_batch=batch, outputs=outputs)
        self._iter += 1


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch compute with so many threads; None changes nothing."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _FeaturesHook(Hook):
    """Prepares features once all other hooks have decided what is frozen and where to resume."""

    def __init__(self, loop: _CachedFeatures) -> None:
        self.loop = loop

    def before_train(self, runner: Runner) -> None:
        self.loop.prepare()

    def before_train_epoch(self, runner: Runner) -> None:
        self.loop.check_frozen()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if runner.iter < runner.max_iters:
            self.loop.check_frozen()


@LOOPS.register_module()
class CachedFeatureEpochTrainLoop(_CachedFeatures, ResumableEpochTrainLoop):
    """Trains by epoch, see :func:`CachedFeatureTrainLoop`."""

    def run_iter(self, idx: int, data_batch: FeatureBatch) -> None:
        """Take one step on features."""
        self._run_step(idx, data_batch)


@LOOPS.register_module()
class CachedFeatureIterTrainLoop(_CachedFeatures, ResumableIterTrainLoop):
    """Trains by iteration, see :func:`CachedFeatureTrainLoop`."""

    def run_iter(self, data_batch: FeatureBatch) -> None:
        """Take one step on features."""
        self._run_step(self._iter, data_batch)


@LOOPS.register_module()
def CachedFeatureTrainLoop(
    runner: Any,
    dataloader: Union[DataLoader, dict],
    max_epochs: int | None = None,
    max_iters: int | None = None,
    **kwargs: Any,
) -> Union[CachedFeatureEpochTrainLoop, CachedFeatureIterTrainLoop]:
    """Train neck and head on features that the frozen backbone has computed once.

    Before training all images go through the model up to the last of mmpretrain's stages in which
    nothing trains (``extract_feat(stage=...)``: 'backbone', 'neck', or 'pre_logits'); what that
    stage gives lies in a file that is mapped into memory. A step takes its rows from the file, in
    the order of the sampler, with the optimizer, schedulers, hooks and checkpoints of the config.
    Validation and checkpoints are of the whole model.

    The file is found again by a hash of the frozen weights, the network's settings and code,
    pipeline, data list and files, data preprocessor, precision and number of views. Each rank
    computes a share of the images; all read the one file, so that it must be visible to all.

    Batch augmentations (mixup) mix images, and are left out. A small head computes on one thread
    on a CPU, and torch's SGD, Adam and AdamW take their fused step where the config sets neither
    ``fused`` nor ``foreach``. Both depend on config and checkpoint alone, so that a resumed run
    ends as the uninterrupted one.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``.
        max_epochs: Train by epoch, for so many. Defaults to None.
        max_iters: Or by iteration, for so many. Defaults to None.
        views: How many times each image goes through the training pipeline; epoch by epoch, they
            take turns. Defaults to 1.
        cache_dir: Folder of all caches; None is ``feature_cache`` in the work folder.
            Defaults to None.
        feature_dtype: In which features are kept: 'float32', 'float16', 'bfloat16'. Defaults to
            None, as they are computed.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in mmengine's loops.

    Returns:
        The loop by epoch or by iteration.

    Raises:
        ValueError: If an argument is out of its range, or, when training begins, if a part of the
            backbone trains or is random.
        NotImplementedError: For sharded and compiled models, and those without stages.
        OSError: If the disk is full.
    """
    length = {name: value for name, value in kwargs.items() if name not in _OPTIONS}
    check_length('CachedFeatureTrainLoop', max_epochs, max_iters, **length)
    refuse_strategies('CachedFeatureTrainLoop', runner)
    if max_epochs is not None:
        return CachedFeatureEpochTrainLoop(runner, dataloader, max_epochs=max_epochs, **kwargs)
    return CachedFeatureIterTrainLoop(runner, dataloader, max_iters=max_iters, **kwargs)
