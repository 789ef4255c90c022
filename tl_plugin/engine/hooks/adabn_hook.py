"""Adapts batch norms to the target."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tl_plugin.evaluation.metrics import add_metrics
from tl_plugin.reliability.data_identity import check_evaluated, check_inherited, check_trained
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.reliability.replayable_loader import build_loader
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked

from ..batch_statistics import estimate_batch_statistics, norm_layers
from ..loops.domain_eval_loop import evaluate
from ..loops.inherit import inherit_dataloader

_WHERE = 'custom_hooks.AdaBNHook.target_dataloader'


@HOOKS.register_module()
class AdaBNHook(Hook):
    """Replaces the running statistics of batch norms by the target's (AdaBN).

    Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779:
    what makes the domains differ is partly in the statistics of the layers, and these need no
    labels and no training. ``tools/test.py`` with it evaluates an adapted source checkpoint; in
    training the statistics are taken before each validation and at the end, so that checkpoints
    written then have them; a test of the same weights takes no others.

    Logs ``before_adabn/<metric>`` beside each metric.

    Args:
        target_dataloader: Loader of target images. What it leaves out is inherited from
            ``test_dataloader``, or else ``val_dataloader``. Defaults to None: the domain
            ``target`` of a ``DomainTestLoop`` or ``DomainValLoop``.
        max_batches: So many batches are enough. Defaults to None, all of them.
        report_before: Whether to evaluate before, too, which doubles the time of an evaluation.
            Defaults to True.

    Raises:
        ValueError: If there are no target images, they are those of the domain ``source``, the
            model has no batch norm, or an ``EMAHook`` keeps another set of statistics.
    """

    # Before checkpoints are written, after other hooks have changed weights; before the logger.
    priority = 'NORMAL'

    @checked
    def __init__(
        self,
        target_dataloader: dict | None = None,
        max_batches: int | None = None,
        report_before: bool = True,
    ) -> None:
        if max_batches is not None and max_batches < 1:
            raise ValueError(f'AdaBNHook: max_batches must be at least 1, got {max_batches}')
        self.target_dataloader = target_dataloader
        self.max_batches = max_batches
        self.report_before = report_before
        self._before: dict[str, float] = {}
        self._loader: DataLoader | None = None
        self._adapted = ''
        self._source: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Refuses what it can't do before hours of training."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ValueError(
                'AdaBNHook would adapt the weights that train, while an EMAHook evaluates its own '
                'copy of them: take one of the two away, and adapt the averaged checkpoint by '
                'tools/test.py --strategy adabn'
            )
        if not norm_layers(unwrap(runner.model)):
            raise ValueError(
                f'AdaBNHook: {type(unwrap(runner.model)).__name__} has no batch norm with running '
                'statistics to adapt; this strategy does nothing for networks with layer norm'
            )
        self._target(runner, runner.val_loop)

    def after_train_epoch(self, runner: Runner) -> None:
        """Adapts where the loop by epoch validates or ends."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._adapt_if_due(runner, runner.epoch + 1, runner.max_epochs)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Adapts where the loop by iteration validates or ends."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._adapt_if_due(runner, runner.iter + 1, runner.max_iters)

    def before_test(self, runner: Runner) -> None:
        """Adapts before a test."""
        self._adapt(runner, runner.test_loop)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Log what the validation would have found without adaptation."""
        self._report(runner, metrics, 'val')

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Log what the test would have found without adaptation."""
        self._report(runner, metrics, 'test')

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """Return the names that it adds to the metrics of a validation."""
        return [f'before_adabn/{name}' for name in names] if self.report_before else []

    def _adapt_if_due(self, runner: Runner, done: int, end: int) -> None:
        loop = runner.val_loop
        due = loop is not None and done >= runner.val_begin and done % runner.val_interval == 0
        if due or done == end:
            self._adapt(runner, loop if due else None)

    def _adapt(self, runner: Runner, loop: Any) -> None:
        model = unwrap(runner.model)
        layers = list(norm_layers(model).values())
        known = self._adapted and _state(model) == self._adapted
        target = _statistics(layers) if known else None
        if target is None:
            self._source = _statistics(layers)
        else:
            _set_statistics(layers, self._source)
        self._before = {}
        if self.report_before and loop is not None:
            found = evaluate(runner, loop)
            self._before = {f'before_adabn/{name}': value for name, value in found.items()}
        if target is None:
            self._estimate(runner, model, loop)
        else:
            _set_statistics(layers, target)
        self._adapted = _state(model)

    def _estimate(self, runner: Runner, model: nn.Module, loop: Any) -> None:
        batches = islice(self._target(runner, loop), self.max_batches)
        count = estimate_batch_statistics(
            model,
            (batch for batch in batches if len(batch['inputs']) > 1),
            lambda batch: model(**model.data_preprocessor(batch, False), mode='tensor'),
        )
        print_log(f'AdaBN: {count} norm layers have statistics of the target.', logger='current')

    def _report(self, runner: Runner, metrics: dict | None, mode: str) -> None:
        add_metrics(runner, metrics, self._before, mode)
        self._before = {}

    def _target(self, runner: Runner, loop: Any) -> DataLoader:
        if self._loader is None:
            self._loader = self._build(runner, loop)
        return self._loader

    def _build(self, runner: Runner, loop: Any) -> DataLoader:
        domains = getattr(loop, 'domains', {})
        if self.target_dataloader is not None:
            stock = 'test_dataloader' if runner.cfg.get('test_dataloader') else 'val_dataloader'
            base = runner.cfg.get(stock) or {}
            loader = inherit_dataloader(base, self.target_dataloader, _WHERE)
            loader = build_loader(runner, loader, 'target')
            if base:
                evaluated = build_loader(runner, base, stock).dataset
                check_inherited(stock, evaluated, loader.dataset, _WHERE)
            if 'source' in domains:
                source = domains['source'][0].dataset
                check_evaluated('source', source, 'target', loader.dataset, _WHERE)
        elif 'target' in domains:
            loader = domains['target'][0]
        else:
            raise ValueError(
                'AdaBNHook needs target images: set its target_dataloader=dict(dataset=...), or '
                "name a domain 'target' in val_cfg and test_cfg, "
                "dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=...)))"
            )
        if isinstance(runner._train_loop, BaseLoop) and runner.max_iters:
            trained = runner.train_dataloader.dataset
            check_trained(trained, 'the target images of AdaBNHook', loader.dataset)
        return loader


def _statistics(layers: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    return [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]


def _set_statistics(
    layers: Sequence[nn.Module], statistics: Sequence[tuple[Tensor, Tensor]]
) -> None:
    for layer, (mean, variance) in zip(layers, statistics):
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def _state(model: nn.Module) -> str:
    return fingerprint({name: value.cpu() for name, value in model.state_dict().items()})
