"""Remembers the model as it was when the run began."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.reliability.checkpoints import save_hook_state, saved_hook_state
from tl_plugin.stack.protocol import require_adaptation_model

_KEY = 'source_model'


@HOOKS.register_module()
class SourceModelHook(Hook):
    """Remembers the weights that the run begins with, for the model's regularizers.

    They are taken once, after ``load_from`` and before the first step; a resumed run gets them back
    out of its checkpoint. They are in checkpoints alone, beside ``state_dict``: a published or
    exported model carries none of it. Several of these hooks, as several overlays bring, do what
    one does.

    Raises:
        ValueError: If the model has no regularizers, or the checkpoint to resume from is that of a
            run without.
        NotImplementedError: Under FSDP and DeepSpeed, where no process holds the whole model.
    """

    # Before hooks that change weights or running statistics when training begins.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._saved: dict | None = None

    def before_train(self, runner: Runner) -> None:
        """Remember the model, or get back what the run remembered when it began."""
        model = require_adaptation_model(runner.model, 'SourceModelHook')
        _refuse_sharded(runner)
        if not runner.iter:
            model.remember_source()
            if not runner._has_loaded:
                print_log(
                    'The source model is the network as it was built, with whatever weights '
                    'its backbone brought: this run has no load_from.',
                    logger='current',
                )
            return
        if self._saved is None and model.needs_source_model():
            raise ValueError(
                'This checkpoint remembers no source model, because its run had no regularizer '
                'that needs one: go on without them, or start a new run with load_from.'
            )
        model.remember_source(self._saved)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the remembered weights into the checkpoint."""
        state = require_adaptation_model(runner.model, 'SourceModelHook').source_state()
        if state is not None:
            save_hook_state(checkpoint, _KEY, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint remembers; only a resumed run uses it."""
        self._saved = saved_hook_state(checkpoint, _KEY)


def _refuse_sharded(runner: Runner) -> None:
    kind = type(runner.model).__name__ + type(getattr(runner, 'strategy', None)).__name__
    if any(name in kind for name in ('FullySharded', 'FSDP', 'DeepSpeed', 'ColossalAI')):
        raise NotImplementedError(
            f'Regularizers need a copy of the whole model on each process, and {kind} divides it: '
            'train with DistributedDataParallel.'
        )
