"""Write checkpoints that survive a kill, a full disk and a damaged file."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections import deque
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.model_wrappers import unwrap

from .checkpoints import POINTER, config_without_images, newest_whole_checkpoint
from .files import WholeFileBackend, remove_leftovers
from .ranks import on_all_ranks, on_main_process

_BACKEND = {'backend': 'whole_files'}
# How the log histories of mmengine are written.
_HISTORY_KEYS = {'log_history', 'count_history', 'max_length'}


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with files that are whole at any moment.

    A checkpoint is written to a temporary file, flushed to the disk and renamed; then
    ``last_checkpoint`` is written in the same way; only then is an old checkpoint deleted. (The
    stock hook deletes first and writes in place.) A crash while it writes costs at most the work
    since the last whole checkpoint. A full disk doesn't end the run, unless it affects the last
    checkpoint: it is reported, and the next checkpoint is written when it is due. Weights that are
    not finite are never written.

    Checkpoints hold only plain data beside the weights, so that ``torch.load`` and mmpretrain's
    tools for checkpoints read the files as they are, and a config without the images that it lists,
    since ``publish_model.py`` publishes that too.

    With ``resume=True`` and no ``load_from`` the first process finds the newest checkpoint that can
    be read, and all processes resume from it. Only the first process writes.

    The launch replaces a stock hook with this one. A stock config names it:
    ``default_hooks = dict(checkpoint=dict(type='tl_plugin.reliability.AtomicCheckpointHook'))``.

    Args:
        *args: As in ``CheckpointHook``. Folders that aren't local are written as it does.
        **kwargs: Likewise.
    """

    #: Whether its files are whole; known once training begins. A validation alone writes none.
    _atomic = False
    #: The run's config as checkpoints hold it.
    _public: Config | None = None

    def before_run(self, runner: Runner) -> None:
        """Make all processes resume from the same checkpoint, the newest whole one."""
        runner._resume, runner._load_from = on_main_process(lambda: _start_of(runner))

    def before_train(self, runner: Runner) -> None:
        """Find the folder of checkpoints, and delete what a killed process has left there."""
        folder = str(self.out_dir or runner.work_dir)
        # mmengine passes these to the function that writes.
        local = self.file_client_args is None and self.backend_args is None
        if local and type(get_file_backend(folder)) is LocalBackend:
            self.backend_args = _BACKEND
        # The config goes into each checkpoint, and making its text look nice takes up to a second.
        vars(runner.cfg).update(_format_python_code=False)
        super().before_train(runner)
        self._atomic = isinstance(self.file_backend, WholeFileBackend)
        if self._atomic:
            leftovers = on_main_process(lambda: remove_leftovers(self.out_dir))
            if leftovers:
                print_log(
                    f'Deleted what a killed process had not finished: {", ".join(leftovers)}',
                    logger='current',
                    level=logging.WARNING,
                )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the log histories as tensors, and a config that names no image."""
        _write_plainly(checkpoint)
        if self._public is None:
            self._public = config_without_images(runner.cfg)
        if self._public is not runner.cfg and 'cfg' in checkpoint['meta']:
            checkpoint['meta']['cfg'] = self._public.pretty_text

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn these tensors into log histories again."""
        _restore_histories(checkpoint)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self._atomic:
            super()._save_best_checkpoint(runner, metrics)
            return
        info, own = dict(runner.message_hub.runtime_info), _best_paths(self)
        try:
            with self.file_backend.deleting_last():
                save = super()._save_best_checkpoint
                on_all_ranks(lambda: save(runner, metrics))
        except OSError as error:
            # As if the metric had not been better: the best file that is there stays the best.
            vars(self).update(own)
            runner.message_hub.runtime_info.clear()
            runner.message_hub.runtime_info.update(info)
            self._report(runner, error, last=False)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not self._atomic:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        _check_finite(runner)
        previous, kept = self.last_ckpt, list(getattr(self, 'keep_ckpt_ids', []))
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        ids = kept if kept[-1:] == [step] else [*kept, step]
        # With those that are yet to be deleted: killed before that, the resumed run does it.
        self._remember(runner, path, ids)
        try:
            on_all_ranks(lambda: self._write(runner, path, step, meta))
        except OSError as error:
            self._remember(runner, previous, kept)
            self._report(runner, error, last=self._is_last(runner))
            return
        if self.max_keep_ckpts > 0:
            on_main_process(lambda: self._delete_outdated(ids[: -self.max_keep_ckpts]))
            self._remember(runner, path, ids[-self.max_keep_ckpts :])

    def _remember(self, runner: Runner, path: str | None, ids: list[int]) -> None:
        self.last_ckpt = path
        runner.message_hub.update_info('last_ckpt', path)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(ids)
            runner.message_hub.update_info('keep_ckpt_ids', list(ids))

    def _write(self, runner: Runner, path: str, step: int, meta: dict) -> None:
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            self.file_backend.put_text(path, os.path.join(runner.work_dir, POINTER))

    def _delete_outdated(self, steps: list[int]) -> None:
        for step in steps:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                shutil.rmtree(path)

    def _is_last(self, runner: Runner) -> bool:
        if self.by_epoch:
            return self.is_last_train_epoch(runner)
        return self.is_last_train_iter(runner)

    def _report(self, runner: Runner, error: OSError, last: bool) -> None:
        free = shutil.disk_usage(self.out_dir).free / 2**20
        message = (
            f'a checkpoint at iteration {runner.iter} could not be written: {error} '
            f'({free:.0f} MiB are free in {self.out_dir}). The last whole one is '
            f'{self.last_ckpt or "none yet"}'
        )
        if last:
            raise OSError(
                f'{message}. This was the last of the run: make room and resume'
            ) from error
        print_log(
            f'{message}; the run goes on and tries again when the next one is due.',
            logger='current',
            level=logging.ERROR,
        )


def _start_of(runner: Runner) -> tuple[bool, str | None]:
    """Return whether to resume, and from which file."""
    if not runner._resume or runner._load_from is not None:
        return runner._resume, runner._load_from
    found = newest_whole_checkpoint(runner.work_dir)
    what = f'Resuming from {found}' if found else 'Nothing to resume from: a new run'
    print_log(f'{what} (looked in {runner.work_dir}).', logger='current')
    return found is not None, str(found) if found else None


def _best_paths(hook: AtomicCheckpointHook) -> dict:
    names = ('best_ckpt_path', 'best_ckpt_path_dict')
    return {name: copy.copy(vars(hook)[name]) for name in names if name in vars(hook)}


def _check_finite(runner: Runner) -> None:
    for name, value in unwrap(runner.model).state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise FloatingPointError(
                f'{name} is not finite (NaN or infinite) at iteration {runner.iter}: training has '
                'diverged, and these weights are not written over the last good checkpoint. Lower '
                'the learning rate, clip gradients (optim_wrapper.clip_grad), or look at the data'
            )


def _write_plainly(checkpoint: dict) -> None:
    """Write the log histories as tensors, in place, so that ``torch.load`` reads them by itself.

    mmengine pickles ``HistoryBuffer`` objects into every checkpoint, which torch's safe default
    refuses: mmpretrain's ``publish_model.py`` fails on them, and so does any ``torch.load`` where
    ``tl_plugin`` isn't imported. mmengine itself skips histories of another form, with a warning.
    """
    hub = checkpoint.get('message_hub')
    if not hub:
        return
    for name, buffer in hub['log_scalars'].items():
        if isinstance(buffer, HistoryBuffer):
            history, counts = (torch.tensor(array) for array in buffer.data)
            hub['log_scalars'][name] = dict(
                log_history=history, count_history=counts, max_length=buffer.max_length
            )
    hub['runtime_info'] = {name: _plain(value) for name, value in hub['runtime_info'].items()}


def _restore_histories(checkpoint: dict) -> None:
    """Turn the tensors in a loaded checkpoint into log histories again, in place."""
    hub = checkpoint.get('message_hub')
    for name, value in list(hub['log_scalars'].items()) if isinstance(hub, dict) else ():
        if isinstance(value, dict) and set(value) == _HISTORY_KEYS:
            history, counts = (value[key].cpu().numpy() for key in ('log_history', 'count_history'))
            hub['log_scalars'][name] = HistoryBuffer(history, counts, value['max_length'])


def _plain(value: Any) -> Any:
    """Convert numbers of numpy, such as a best score, to Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value
