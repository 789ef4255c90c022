from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from tl_plugin.reliability.build_loader import build_loader
from tl_plugin.reliability.class_sets import check_classes, dataset_classes
from tl_plugin.reliability.data_identity import check_evaluated
from tl_plugin.stack.protocol import SOURCE, TARGET, announce_domain

from .inherit import inherit_dataloader


class _SeveralDomains:
    """What both loops add: one evaluation after the other, one set of metrics for all."""

    #: The domain that is being evaluated.
    domain = SOURCE

    def _add_domains(
        self, base: Any, dataloaders: dict[str, Any], evaluators: dict[str, Any], key: str
    ) -> None:
        if not dataloaders:
            raise ValueError(
                f'{type(self).__name__} evaluates several domains: name at least one beside '
                f"'{SOURCE}', {key}.dataloaders = dict(target=dict(dataset=...))"
            )
        self._domains: dict[str, tuple[DataLoader, Evaluator]] = {}
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
        self._add_domain(SOURCE, self.dataloader, evaluators.get(SOURCE, template))
        for name, loader in dataloaders.items():
            if name in self._domains or '/' in name:
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
        """Loader and metrics of each domain, in the order of evaluation."""
        return self._domains

    def _add_domain(self, name: str, loader: DataLoader, template: Evaluator) -> None:
        evaluator = copy.deepcopy(template)
        if hasattr(loader.dataset, 'metainfo'):
            evaluator.dataset_meta = loader.dataset.metainfo
        for metric in evaluator.metrics:
            # A metric that writes a file (DumpResults) writes one a domain.
            path = getattr(metric, 'out_file_path', None)
            if path:
                metric.out_file_path = str(Path(path).with_suffix(f'.{name}{Path(path).suffix}'))
        self._domains[name] = (loader, evaluator)

    def _evaluate_domains(self) -> dict[str, Any]:
        metrics = {}
        for name, (loader, evaluator) in self._domains.items():
            self._announce(name)
            # Where `run_iter` and the hooks that log progress look.
            self.dataloader, self.evaluator = loader, evaluator
            for idx, data_batch in enumerate(loader):
                self.run_iter(idx, data_batch)
            found = evaluator.evaluate(len(loader.dataset))
            metrics.update({f'{name}/{metric}': value for metric, value in found.items()})
        self.dataloader, self.evaluator = self._domains[SOURCE]
        announce_domain(self.runner.model, TARGET)
        return metrics

    def _announce(self, name: str) -> None:
        self.domain = name
        announce_domain(self.runner.model, name)


@LOOPS.register_module()
class DomainValLoop(_SeveralDomains, ValLoop):
    """Validates on several domains: metrics are prefixed, ``source/accuracy/top1``.

    ``val_dataloader`` is the domain ``source``; ``val_evaluator`` is computed for each domain anew,
    unless the domain has evaluators of its own, as one without labels needs.

    Args:
        runner: The runner.
        dataloader: The config's ``val_dataloader``.
        evaluator: The config's ``val_evaluator``.
        dataloaders: Name -> loader of a further domain. What it doesn't set is inherited from
            ``val_dataloader``.
        evaluators: Name -> metrics of a domain, instead of ``val_evaluator``. Defaults to None.
        fp16: As in mmengine's ``ValLoop``. Defaults to False.

    Raises:
        ValueError: If there is no further domain, or one has an impossible name, no data, the same
            images as another, or other classes than the source.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        dataloaders: dict,
        evaluators: dict | None = None,
        fp16: bool = False,
    ) -> None:
        built = build_loader(runner, dataloader, 'val_dataloader')
        super().__init__(runner, built, evaluator, fp16=fp16)
        self._add_domains(dataloader, dataloaders, evaluators or {}, 'val_cfg')

    def run(self) -> dict:
        """Launches the validation of all domains."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        metrics = self._evaluate_domains()
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics


@LOOPS.register_module()
class DomainTestLoop(_SeveralDomains, TestLoop):
    """Tests on several domains, see :class:`DomainValLoop`; ``test_dataloader`` is ``source``."""

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        dataloaders: dict,
        evaluators: dict | None = None,
        fp16: bool = False,
    ) -> None:
        built = build_loader(runner, dataloader, 'test_dataloader')
        super().__init__(runner, built, evaluator, fp16=fp16)
        self._add_domains(dataloader, dataloaders, evaluators or {}, 'test_cfg')

    def run(self) -> dict:
        """Launches the test of all domains."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        metrics = self._evaluate_domains()
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics
