"""Starts, watches and saves test-time adaptation in a test."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.reliability.files import write_whole
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import SOURCE

from ..loops.domain_eval_loop import evaluate

#: The adapted model, in the work folder.
ADAPTED = 'adapted.pth'


@HOOKS.register_module()
class TestTimeAdaptationHook(Hook):
    """Let a :class:`TestTimeClassifier` adapt in a test, and say what it did.

    The test's images come as a stream, each batch once. A domain ``source`` of a
    ``DomainTestLoop`` is predicted first, by the source model.

    Args:
        save: Whether the adapted model is written to ``adapted.pth`` in the work folder, an
            ordinary checkpoint of the config's network. Defaults to False: the next test begins
            with the source model again.
        budget: Points of source accuracy that adaptation may cost: the source images of the test
            are predicted again every ``interval`` batches, and where more is lost, adaptation goes
            back to the source model. Defaults to None, which measures nothing.
        interval: Batches from one such measurement to the next. Defaults to 20.

    Raises:
        ValueError: If the model doesn't adapt at test time, or a budget has no source to measure.
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    @checked
    def __init__(self, save: bool = False, budget: float | None = None, interval: int = 20) -> None:
        if interval < 1 or (budget is not None and budget < 0):
            raise ValueError(
                'TestTimeAdaptationHook: interval must be at least 1 and budget at least 0, got '
                f'interval={interval} and budget={budget}'
            )
        self.save, self.budget, self.interval = save, budget, interval
        self._floor: float | None = None

    def before_test(self, runner: Runner) -> None:
        """Begin with the model that is tested."""
        model = unwrap(runner.model)
        inner = getattr(model, 'module', model)  # of a model that averages over augmentations
        if not hasattr(inner, 'begin_adaptation'):
            raise ValueError(
                f'TestTimeAdaptationHook adapts a TestTimeClassifier, this is a '
                f'{type(model).__name__}: use the overlay tent or sar'
            )
        self._model = inner
        inner.begin_adaptation()
        if self.budget is not None:
            self._floor = self._source_accuracy(runner) - self.budget

    def after_test_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Measure the source now and then, where there is a budget."""
        if self._floor is None or getattr(runner.test_loop, 'domain', SOURCE) == SOURCE:
            return
        if (batch_idx + 1) % self.interval == 0:
            now = self._source_accuracy(runner)
            if now < self._floor:
                self._model.adapter.reset(
                    f'{now:.2f}% on the source are less than the budget leaves, {self._floor:.2f}%'
                )

    def after_test(self, runner: Runner) -> None:
        """Report, and save the model."""
        events = self._model.adapter.events
        found = ', '.join(f'{count:,} {what}' for what, count in events.items())
        print_log(f'Test-time adaptation: {found}.', logger='current')
        if self.save:
            path = Path(runner.work_dir, ADAPTED)
            meta = dict(adapted_by=self._model.test_time.method, **_classes(runner))
            state = {name: value.cpu() for name, value in self._model.state_dict().items()}
            content = io.BytesIO()
            torch.save(dict(state_dict=state, meta=meta), content)
            on_main_process(lambda: write_whole(path, content.getvalue()))
            print_log(f'The adapted model is in {path}.', logger='current')
        self._model.begin_adaptation(False)

    def _source_accuracy(self, runner: Runner) -> float:
        loop = runner.test_loop
        if SOURCE not in getattr(loop, 'domains', ()):
            raise ValueError(
                'TestTimeAdaptationHook.budget is of source accuracy, and this test has no domain '
                "source: set test_cfg = dict(type='DomainTestLoop', "
                'dataloaders=dict(target=dict(dataset=...)))'
            )
        with torch.no_grad():
            found = evaluate(runner, loop, only=[SOURCE])
        names = [name for name in found if name.endswith('/accuracy/top1')]
        if not names:
            raise ValueError(
                'TestTimeAdaptationHook.budget reads source/accuracy/top1, and this test gives '
                f"{', '.join(found)}: set test_evaluator=dict(type='Accuracy')"
            )
        return float(found[names[0]])


def _classes(runner: Runner) -> dict:
    info = getattr(runner.test_loop.dataloader.dataset, 'metainfo', None) or {}
    return dict(dataset_meta=info) if info else {}
