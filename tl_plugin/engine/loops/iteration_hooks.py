"""Calls the hooks of an iteration, and only those that do something there."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

#: Stage -> the method that mmengine's ``Hook`` passes it on to; both do nothing by themselves.
_STAGES = {'before_train_iter': '_before_iter', 'after_train_iter': '_after_iter'}


class IterationHooks:
    """Stands in for ``runner.call_hook`` where a step takes less time than a dozen idle hooks.

    Hooks are called in their order, with the same arguments; those that only inherit the empty
    methods of mmengine's ``Hook`` are left out. A hook that is registered during the run is called
    from the next stage on.

    Args:
        runner: The runner.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.look_again()

    def look_again(self) -> None:
        """Looks through the hooks anew; whoever exchanges a hook's method is heard after that."""
        self._known = list(self._runner.hooks)
        self._acting = {
            stage: [hook for hook in self._known if _acts(hook, stage)] for stage in _STAGES
        }

    def call(self, stage: str, **kwargs: Any) -> None:
        """Calls a stage.

        Args:
            stage: 'before_train_iter' or 'after_train_iter'.
            **kwargs: What its hooks get beside the runner.

        Raises:
            TypeError: As in ``runner.call_hook``, with the hook's name.
        """
        runner = self._runner
        if type(runner).call_hook is not Runner.call_hook:  # it has its own way
            runner.call_hook(stage, **kwargs)
            return
        if runner.hooks != self._known:
            self.look_again()
        for hook in self._acting[stage]:
            try:
                getattr(hook, stage)(runner, **kwargs)
            except TypeError as error:
                raise TypeError(f'{error} in {hook}') from None


def _acts(hook: Hook, stage: str) -> bool:
    return any(
        name in vars(hook) or getattr(type(hook), name) is not getattr(Hook, name)
        for name in (stage, _STAGES[stage])
    )
