"""Starts, watches and saves test-time adaptation in a test."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.reliability.files import write_whole
from tl_plugin.reliability.ranks import on_main_process
from tl_plugin.stack.model_wrappers import evaluating, unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import SOURCE

from ..loops.domain_eval_loop import evaluate
from ..loops.inherit import inherit_dataloader

#: The adapted model, in the work folder.
ADAPTED = 'adapted.pth'
_WHERE = 'custom_hooks.TestTimeAdaptationHook.target_dataloader'


@HOOKS.register_module()
class TestTimeAdaptationHook(Hook):
    """Let a :class:`TestTimeClassifier` adapt in a test, and say what it did.

    The test's images come as a stream, each batch once. A domain ``source`` of a
    ``DomainTestLoop`` is predicted first, by the source model.

    With a ``target_dataloader`` it adapts offline: at the end of a training, of none
    (``no_training``) in particular, the model adapts to these images in one pass and stays as it is
    then; it is saved, validated and tested as any other model.

    Args:
        save: Whether the adapted model is written to ``adapted.pth`` in the work folder, an
            ordinary checkpoint of the config's network. Defaults to False: the next test begins
            with the source model again.
        budget: Points of source accuracy that adaptation may cost: the source images of the test
            are predicted again every ``interval`` batches, and where more is lost, adaptation goes
            back to the source model. Defaults to None, which measures nothing.
        interval: Batches from one such measurement to the next. Defaults to 20.
        target_dataloader: Loader of target images to adapt to offline. What it leaves out is
            inherited from ``test_dataloader``, or else ``val_dataloader``. Defaults to None: the
            images of a test, while they are tested.

    Raises:
        ValueError: If the model doesn't adapt at test time, or a budget has no source to measure.
    """

    __test__ = False  # no test, whatever pytest thinks of its name
    # Before checkpoints are written and the model is validated.
    priority = 'NORMAL'

    @checked
    def __init__(
        self,
        save: bool = False,
        budget: float | None = None,
        interval: int = 20,
        target_dataloader: dict | None = None,
    ) -> None:
        if interval < 1 or (budget is not None and budget < 0):
            raise ValueError(
                'TestTimeAdaptationHook: interval must be at least 1 and budget at least 0, got '
                f'interval={interval} and budget={budget}'
            )
        if target_dataloader is not None and (save or budget is not None):
            raise ValueError(
                'TestTimeAdaptationHook: save and budget are for a test, and target_dataloader '
                'adapts before it: its model is in the checkpoint of the training; leave them out'
            )
        self.save, self.budget, self.interval = save, budget, interval
        self.target_dataloader = target_dataloader
        self._floor: float | None = None

    def after_train_epoch(self, runner: Runner) -> None:
        """Adapt offline where the training by epoch ends."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and runner.epoch + 1 == runner.max_epochs:
            self._adapt_offline(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Adapt offline where the training by iteration ends."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not by_epoch and runner.iter + 1 == runner.max_iters:
            self._adapt_offline(runner)

    def _adapt_offline(self, runner: Runner) -> None:
        if self.target_dataloader is None:
            return
        self._begin(runner)
        base = runner.cfg.get('test_dataloader') or runner.cfg.get('val_dataloader') or {}
        loader = inherit_dataloader(base, self.target_dataloader, _WHERE)
        # In an order of classes batches would have statistics of their own.
        loader['sampler'] = dict(type='DefaultSampler', shuffle=True)
        model = self._model
        with evaluating(model):
            for batch in runner.build_dataloader(loader, seed=runner.seed):
                model.adapter(model.data_preprocessor(batch, False)['inputs'])
        self._report()
        model.begin_adaptation(False)

    def before_test(self, runner: Runner) -> None:
        """Begin with the model that is tested."""
        self._begin(runner)
        if self.target_dataloader is not None:
            self._model.begin_adaptation(False)
        elif self.budget is not None:
            self._floor = self._source_accuracy(runner) - self.budget

    def _begin(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        inner = getattr(model, 'module', model)  # of a model that averages over augmentations
        if not hasattr(inner, 'begin_adaptation'):
            raise ValueError(
                f'TestTimeAdaptationHook adapts a TestTimeClassifier, this is a '
                f'{type(model).__name__}: use the overlay tent or sar'
            )
        self._model = inner
        inner.begin_adaptation()

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
        if self.target_dataloader is not None:
            return
        self._report()
        if self.save:
            path = Path(runner.work_dir, ADAPTED)
            meta = dict(adapted_by=self._model.test_time.method, **_classes(runner))
            state = {name: value.cpu() for name, value in self._model.state_dict().items()}
            content = io.BytesIO()
            torch.save(dict(state_dict=state, meta=meta), content)
            on_main_process(lambda: write_whole(path, content.getvalue()))
            print_log(f'The adapted model is in {path}.', logger='current')
        self._model.begin_adaptation(False)

    def _report(self) -> None:
        events = self._model.adapter.events
        found = ', '.join(f'{count:,} {what}' for what, count in events.items())
        why = '.'
        if events['served by the source model'] == events['batches'] == 1:
            why = (
                ': a first batch is never adapted to; smaller ones let the later images gain '
                '(test_dataloader.batch_size=50)'
            )
        print_log(f'Test-time adaptation: {found}{why}', logger='current')

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
