"""Evaluation on several domains, as a loop of the run or beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.runner import Runner, TestLoop, ValLoop
from mmengine.runner.amp import autocast
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.reliability.class_sets import check_classes, dataset_classes
from tl_plugin.reliability.data_identity import check_evaluated
from tl_plugin.reliability.replayable_loader import build_loader
from tl_plugin.stack.model_wrappers import evaluating
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain

from .inherit import inherit_dataloader


class _SeveralDomains:
    """Evaluate one domain after the other, with one set of metrics for all."""

    #: 'val' or 'test': the stage that hooks and config keys are named after.
    stage: str
    #: The domain that is being evaluated.
    domain = SOURCE

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        dataloaders: dict,
        evaluators: dict | None = None,
        fp16: bool = False,
        source: bool = True,
    ) -> None:
        built = build_loader(runner, dataloader, f'{self.stage}_dataloader')
        super().__init__(runner, built, evaluator, fp16=fp16)
        self._stock = built, self.evaluator
        self._domains: dict[str, tuple[DataLoader, Evaluator]] = {}
        self._add_domains(dataloader, dataloaders, evaluators or {}, source)

    def run(self) -> dict:
        """Evaluate all domains."""
        self.runner.call_hook(f'before_{self.stage}')
        self.runner.call_hook(f'before_{self.stage}_epoch')
        self.runner.model.eval()
        metrics = self._evaluate_domains()
        self.runner.call_hook(f'after_{self.stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.stage}')
        return metrics

    def _add_domains(
        self, base: Any, dataloaders: dict[str, Any], evaluators: dict[str, Any], source: bool
    ) -> None:
        key = f'{self.stage}_cfg'
        if not dataloaders:
            raise ValueError(
                f'{type(self).__name__} evaluates several domains: name at least one beside '
                f"'{SOURCE}', {key}.dataloaders = dict(target=dict(dataset=...))"
            )
        template = self.evaluator
        unknown = sorted(set(evaluators) - {SOURCE, *dataloaders})
        if unknown:
            raise ValueError(
                f'{key}.evaluators names {", ".join(unknown)}, but the domains are '
                f'{", ".join([SOURCE, *dataloaders])}'
            )
        evaluators = {
            name: evaluator
            if isinstance(evaluator, Evaluator)
            else self.runner.build_evaluator(evaluator)
            for name, evaluator in evaluators.items()
        }
        if source:
            self._add_domain(SOURCE, self.dataloader, evaluators.get(SOURCE, template))
        for name, loader in dataloaders.items():
            if name in (SOURCE, *self._domains) or '/' in name:
                raise ValueError(
                    f"{key}.dataloaders: '{name}' can't be the name of a domain, '{SOURCE}' is the "
                    'stock loader and / separates the domain from the metric'
                )
            where = f'{key}.dataloaders.{name}'
            if isinstance(loader, dict):
                if isinstance(base, dict):
                    loader = inherit_dataloader(base, loader, where, labelled=True)
                loader = build_loader(self.runner, loader, where)
            for other, (known, _) in self._domains.items():
                check_evaluated(other, known.dataset, name, loader.dataset, where)
            self._add_domain(name, loader, evaluators.get(name, template))
            check_classes(
                SOURCE,
                dataset_classes(self.dataloader.dataset),
                name,
                dataset_classes(loader.dataset),
            )

    @property
    def domains(self) -> dict[str, tuple[DataLoader, Evaluator]]:
        """Return loader and metrics of each domain, in the order of evaluation."""
        return self._domains

    def _add_domain(self, name: str, loader: DataLoader, template: Evaluator) -> None:
        evaluator = copy.deepcopy(template)
        if hasattr(loader.dataset, 'metainfo'):
            evaluator.dataset_meta = loader.dataset.metainfo
        for metric in evaluator.metrics:
            # A metric that writes a file (DumpResults) writes one for each domain.
            path = getattr(metric, 'out_file_path', None)
            if path:
                metric.out_file_path = str(Path(path).with_suffix(f'.{name}{Path(path).suffix}'))
        self._domains[name] = (loader, evaluator)

    def _evaluate_domains(self) -> dict[str, Any]:
        metrics = {}
        for name, (loader, evaluator) in self._domains.items():
            self.domain = name
            announce_domain(self.runner.model, name)
            # `run_iter` and the hooks that log progress read these.
            self.dataloader, self.evaluator = loader, evaluator
            for idx, data_batch in enumerate(loader):
                self.run_iter(idx, data_batch)
            found = evaluator.evaluate(len(loader.dataset))
            metrics.update({f'{name}/{metric}': value for metric, value in found.items()})
        self.dataloader, self.evaluator = self._domains.get(SOURCE, self._stock)
        announce_domain(self.runner.model, TARGET)
        return metrics


@LOOPS.register_module()
class DomainValLoop(_SeveralDomains, ValLoop):
    """Validate on several domains: metrics are prefixed, ``source/accuracy/top1``.

    ``val_dataloader`` is the domain ``source``; ``val_evaluator`` is computed for each one,
    unless the domain has evaluators of its own, as one without labels needs.

    Args:
        runner: The runner.
        dataloader: The config's ``val_dataloader``.
        evaluator: The config's ``val_evaluator``.
        dataloaders: Name -> loader of a further domain. What it doesn't set is inherited from
            ``val_dataloader``.
        evaluators: Name -> metrics of a domain, instead of ``val_evaluator``. Defaults to None.
        fp16: As in mmengine's ``ValLoop``. Defaults to False.
        source: Whether ``val_dataloader`` is evaluated. False where there are no source images: it
            then only says how the others are read. Defaults to True.

    Raises:
        ValueError: If there is no further domain, or one has an impossible name, no data, the same
            images as another, or other classes than the source.
    """

    stage = 'val'


@LOOPS.register_module()
class DomainTestLoop(_SeveralDomains, TestLoop):
    """Test on several domains, see :class:`DomainValLoop`; ``test_dataloader`` is ``source``."""

    stage = 'test'


@torch.no_grad()
def evaluate(
    runner: Runner,
    loop: Any,
    only: Collection[str] | None = None,
    on_batch: Callable[[str, Sequence], Any] | None = None,
) -> dict[str, Any]:
    """Return what a validation or test loop would measure now, without calling any hook.

    Predictions are not written to files, which are those of the loop's own run.

    Args:
        runner: The runner.
        loop: A ``ValLoop`` or ``TestLoop``, over one domain or several.
        only: The domains to evaluate, of a loop over several. Defaults to None, all.
        on_batch: Called with the domain ('' where there is only one) and each batch's predictions.
            Defaults to None.

    Returns:
        Metrics by name.
    """
    model = runner.model
    found = {}
    domains = getattr(loop, 'domains', {'': (loop.dataloader, loop.evaluator)})
    with evaluating(model):
        for name, (loader, evaluator) in domains.items():
            if only is not None and name and name not in only:
                continue
            announce_domain(model, name or TARGET)
            with _writing_no_file(evaluator):
                for batch in loader:
                    with autocast(enabled=loop.fp16):
                        outputs = model.val_step(batch)
                    if on_batch is not None:
                        on_batch(name, outputs)
                    evaluator.process(data_samples=outputs, data_batch=batch)
                metrics = evaluator.evaluate(len(loader.dataset))
            prefix = f'{name}/' if name else ''
            found.update({f'{prefix}{key}': value for key, value in metrics.items()})
        announce_domain(model, TARGET)
    return found


@contextmanager
def _writing_no_file(evaluator: Evaluator) -> Iterator[None]:
    own = evaluator.metrics
    evaluator.metrics = [metric for metric in own if not isinstance(metric, DumpResults)]
    try:
        yield
    finally:
        evaluator.metrics = own
