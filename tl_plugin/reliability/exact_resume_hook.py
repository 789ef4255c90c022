"""Make a resumed run end where the uninterrupted one ends, to the bit."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.model_wrappers import unwrap

from .checkpoints import resumes, save_hook_state, saved_hook_state
from .replayable_loader import train_loaders
from .resumable_loops import ResumableEpochTrainLoop, ResumableIterTrainLoop
from .seeds import MODEL, seed_process

_SAMPLER_SEEDS = 'sampler_seeds'
_GRADIENTS = 'accumulated_gradients'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make a run that was killed and resumed end bit-equal to the uninterrupted one (on a CPU).

    Random numbers are a function of the position in the run, not a saved state: each sample's
    augmentation is a function of (seed, loader, pass, position in the pass), mixup, dropout and
    stochastic depth of (seed, iteration, rank). A saved state would be that of one process, while
    images are augmented in workers that have read ahead, and whose number may change between two
    attempts. A function costs nothing to save, and works for checkpoints of other runs too.

    Stock train loops are replaced by :class:`ResumableEpochTrainLoop` and
    :class:`ResumableIterTrainLoop`, which start in the middle of an epoch without reading the
    batches before. With ``randomness=dict(seed=None)`` the seeds that were drawn are saved in the
    checkpoint, and a resumed run uses them. So are, in a single process, gradients that are being
    accumulated.

    The launch adds this hook. A stock config names it:
    ``custom_hooks = [dict(type='tl_plugin.reliability.ExactResumeHook')]``.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._sampler_seeds: list | None = None
        self._gradients: dict | None = None

    def before_run(self, runner: Runner) -> None:
        """Replace a stock train loop by one that resumes anywhere."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return  # a test run
        runner._train_loop = _resumable(loop)
        for loader in train_loaders(runner._train_loop):
            print_log(
                f'ExactResumeHook: augmentation is a function of seed {loader.seed}, pass and '
                f'position, for {len(loader.dataset)} images.',
                logger='current',
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read this hook's state from a checkpoint to resume from."""
        if resumes(runner):
            self._sampler_seeds = saved_hook_state(checkpoint, _SAMPLER_SEEDS)
            self._gradients = saved_hook_state(checkpoint, _GRADIENTS)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save what can't be computed again."""
        loaders = train_loaders(runner.train_loop)
        seeds = [getattr(loader.sampler, 'seed', None) for loader in loaders]
        save_hook_state(checkpoint, _SAMPLER_SEEDS, seeds)
        if 'optimizer' in checkpoint and _is_accumulating(runner):
            gradients = {
                name: value.grad.cpu()
                for name, value in unwrap(runner.model).named_parameters()
                if value.grad is not None
            }
            save_hook_state(checkpoint, _GRADIENTS, gradients)

    def before_train(self, runner: Runner) -> None:
        """Set the seeds, once a resumed run knows them."""
        loaders = train_loaders(runner.train_loop)
        for loader in loaders:
            loader.seed = runner.seed
        for loader, seed in zip(loaders, self._sampler_seeds or []):
            if seed is not None and hasattr(loader.sampler, 'seed'):
                loader.sampler.seed = seed
        if self._gradients:
            for name, value in unwrap(runner.model).named_parameters():
                if name in self._gradients:
                    value.grad = self._gradients[name].to(value)
        self._sampler_seeds = self._gradients = None
        _check_ranks_agree(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the main process for this iteration."""
        seed_process(runner.seed, MODEL, runner.iter, get_dist_info()[0])


def _resumable(loop: BaseLoop) -> BaseLoop:
    own = {
        EpochBasedTrainLoop: ResumableEpochTrainLoop,
        IterBasedTrainLoop: ResumableIterTrainLoop,
    }
    kind = own.get(type(loop))
    if kind is not None:
        print_log(
            f'ExactResumeHook: {kind.__name__} replaces {type(loop).__name__}, so that '
            'the run can be resumed in the middle of an epoch.',
            logger='current',
        )
        return kind.of(loop)
    known = isinstance(loop, tuple(own.values())) or getattr(loop, 'resumes_exactly', False)
    if not known:
        print_log(
            f'ExactResumeHook: {type(loop).__name__} is neither a stock loop nor derived from '
            f'{" or ".join(kind.__name__ for kind in own.values())}: whether it resumes exactly is '
            'not known.',
            logger='current',
            level=logging.WARNING,
        )
    return loop


def _is_accumulating(runner: Runner) -> bool:
    """Return whether gradients of earlier iterations are accumulated; DDP can't save them."""
    wrapper = runner.optim_wrapper
    counts = getattr(wrapper, '_accumulative_counts', 1)
    if counts == 1 or wrapper._inner_count % counts == 0:
        return False
    if get_dist_info()[1] > 1:
        print_log(
            f'A checkpoint between two optimizer steps ({counts} iterations each): the gradients '
            'of the ranks are not in it, so that a resume from it is not exact. Save at multiples '
            f'of {counts} iterations.',
            logger='current',
            level=logging.WARNING,
        )
        return False
    return True


def _check_ranks_agree(runner: Runner) -> None:
    places = all_gather_object((runner.epoch, runner.iter))
    if len(set(places)) > 1:
        listed = ', '.join(f'rank {rank}: {place}' for rank, place in enumerate(places))
        raise RuntimeError(
            f'the processes start at different (epoch, iteration): {listed}. They must see '
            'the same checkpoint: put work_dir on a file system that all machines share'
        )
