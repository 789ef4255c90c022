"""Trains on features that a frozen trunk has computed once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Union

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.reliability.fingerprint import frozen_tensors, weights_fingerprint
from tl_plugin.reliability.replayable_loader import ReplayableLoader
from tl_plugin.reliability.resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from tl_plugin.reliability.seeds import generators_kept
from tl_plugin.stack.model_wrappers import unwrap

from ..feature_cache.checks import freezing_hooks, refuse_unfit, tell_cut
from ..feature_cache.extract import Extraction
from ..feature_cache.loader import CachedFeatureLoader, FeatureBatch
from ..feature_cache.resting import Rest
from ..feature_cache.rows import JoinedLabels
from ..feature_cache.stepping import LightSteps
from ..feature_cache.threads import few_threads, threads_for
from ..freezing.trainable import optimizers
from .adaptation_loop import check_length
from .iteration_hooks import IterationHooks

_DTYPES = ('float32', 'float16', 'bfloat16')
_FOLDER = 'feature_cache'
_OPTIONS = ('views', 'cache_dir', 'feature_dtype')


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
        self._configure(views, cache_dir, feature_dtype)

    def _configure(self, views: int, cache_dir: str | None, feature_dtype: str | None) -> None:
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
        self.cache_dir = Path(cache_dir or Path(self.runner.work_dir, _FOLDER))
        self.runner.register_hook(_FeaturesHook(self), priority='LOWEST')

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
        """Computes the features, or finds them."""
        runner = self.runner
        model = unwrap(runner.model)
        context = functools.partial(runner.optim_wrapper.optim_context, model)
        runner.model.train()
        for hook in freezing_hooks(runner):
            hook.apply_modes(runner)
        refuse_unfit(runner)
        with generators_kept():
            work = Extraction(
                model,
                self.dataloader.loader,
                context,
                self.cache_dir,
                self.views,
                self.feature_dtype,
            )
            tell_cut(model, work.cut)
            store = work.store()
        self._cut = work.cut
        self._model = model
        self.dataloader.fill(store, work.cut, next(model.parameters()).device)
        self._labels = JoinedLabels(model)
        self._threads = threads_for(model, work.cut, self.dataloader.batch_size)
        self._hooks = IterationHooks(runner)
        self._remember_frozen()
        self._let_rest()

    def begin_epoch(self) -> None:
        """Looks at what may have changed since the last one."""
        self._hooks.look_again()
        self.check_frozen()

    def _let_rest(self) -> None:
        self._rest = Rest(self._model, self._cut.covered)
        self._steps = LightSteps(optimizers(self.runner), self._rest.weights)
        self._rest.begin()
        for hook in freezing_hooks(self.runner):
            hook.let_rest(self._rest.modules)

    def wake(self) -> None:
        """Gives the model back as it was."""
        self._rest.end()

    def _remember_frozen(self) -> None:
        self._frozen = [value for _, value in frozen_tensors(self._model, self._cut.covered)]
        self._versions = self._count_changes()
        self._hash = weights_fingerprint(self._model, self._cut.covered)

    def _count_changes(self) -> int:
        return sum(value._version for value in self._frozen)

    def check_frozen(self) -> None:
        """Makes sure that nothing has changed what the features were computed with.

        Raises:
            RuntimeError: If something has.
        """
        trained = any(value.requires_grad for value in self._frozen)
        if not trained and self._count_changes() == self._versions:
            return
        if trained or weights_fingerprint(self._model, self._cut.covered) != self._hash:
            raise RuntimeError(
                f'weights or statistics up to {self._cut.name} have changed during the run, so '
                'that the cached features are none of this model any more. A hook that unfreezes '
                'or adapts layers needs feature_extraction, which caches nothing'
            )
        self._versions = self._count_changes()

    def _run_step(self, idx: int, batch: FeatureBatch) -> None:
        runner = self.runner
        self._hooks.call('before_train_iter', batch_idx=idx, data_batch=batch)
        with (
            few_threads(self._threads),
            self._cut.replayed(batch.features),
            self._labels.given(batch.labels),
            self._steps.taken(),
        ):
            outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        self._hooks.call('after_train_iter', batch_idx=idx, data_batch=batch, outputs=outputs)
        self._iter += 1


class _FeaturesHook(Hook):
    """Prepares features once all other hooks have said what is frozen and where the run goes on."""

    def __init__(self, loop: _CachedFeatures) -> None:
        self.loop = loop

    def before_train(self, runner: Runner) -> None:
        self.loop.prepare()

    def before_train_epoch(self, runner: Runner) -> None:
        self.loop.begin_epoch()

    def after_train(self, runner: Runner) -> None:
        self.loop.wake()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if runner.iter < runner.max_iters:
            self.loop.check_frozen()


@LOOPS.register_module()
class CachedFeatureEpochTrainLoop(_CachedFeatures, ResumableEpochTrainLoop):
    """By epoch, see :func:`CachedFeatureTrainLoop`."""

    def run_iter(self, idx: int, data_batch: FeatureBatch) -> None:
        """One step on features."""
        self._run_step(idx, data_batch)


@LOOPS.register_module()
class CachedFeatureIterTrainLoop(_CachedFeatures, ResumableIterTrainLoop):
    """By iteration, see :func:`CachedFeatureTrainLoop`."""

    def run_iter(self, data_batch: FeatureBatch) -> None:
        """One step on features."""
        self._run_step(self._iter, data_batch)


@LOOPS.register_module()
def CachedFeatureTrainLoop(
    runner: Any,
    dataloader: Union[DataLoader, dict],
    max_epochs: int | None = None,
    max_iters: int | None = None,
    **kwargs: Any,
) -> Union[CachedFeatureEpochTrainLoop, CachedFeatureIterTrainLoop]:
    """Trains what is not frozen on features that the frozen part has computed once.

    Before training all images go through the model as far as nothing trains; what comes out there
    lies in a file that is mapped into memory. A step takes its rows from it, in the order of the
    sampler, and goes on from there, with the optimizer, schedulers, hooks and checkpoints of the
    config. Validation and checkpoints are of the whole model.

    The file is found again by the hash of the frozen tensors, the network's code, pipeline, data
    list and files, data preprocessor, precision and number of views. Each rank computes a share of
    the images; all read the one file, which has to lie where all of them see it.

    Where the forward pass is cut: behind the deepest frozen module from which the rest is a plain
    chain, which is proved by a step on NaN images. A trunk that is frozen in part is cut in its
    middle. Batch augmentations (mixup) mix images, and are left out.

    What makes a step light on a CPU depends on config and checkpoint alone, never on a measurement,
    so that a resumed run ends as the whole one: a small head computes on one thread
    (:func:`threads_for`), and torch's SGD, Adam and AdamW take their fused step where the config
    sets neither ``fused`` nor ``foreach`` (``fused=False`` keeps the other). Rounding may differ in
    the last digit from training without a cache.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``.
        max_epochs: Train by epoch, for so many.
        max_iters: Or by iteration, for so many.
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
        ValueError: If an argument is out of its range, or, when training begins, if the outputs of
            the frozen part are not fixed or cannot be cut off.
        NotImplementedError: For sharded and compiled models.
        OSError: If the disk has no room.
    """
    length = {name: value for name, value in kwargs.items() if name not in _OPTIONS}
    check_length('CachedFeatureTrainLoop', max_epochs, max_iters, **length)
    if max_epochs is not None:
        return CachedFeatureEpochTrainLoop(runner, dataloader, max_epochs=max_epochs, **kwargs)
    return CachedFeatureIterTrainLoop(runner, dataloader, max_iters=max_iters, **kwargs)
