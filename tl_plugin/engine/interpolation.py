"""Mix the weights of a source model and adapted ones (WiSE-FT, model soups) and measure mixes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from torch import Tensor

from tl_plugin.functional import average_weights, check_same_network, interpolate_weights
from tl_plugin.reliability.data_identity import check_source_and_target
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import SOURCE, adaptation_model

from .batch_statistics import estimate_batch_statistics, norm_layers
from .interpolation_choice import LABEL_FREE, Point, choose
from .layers import LayerMap
from .loops.domain_eval_loop import evaluate
from .loops.inherit import inherit_dataloader

#: Weights of the adapted model.
ALPHAS = tuple(step / 10 for step in range(11))
_SOURCE_STATISTICS = 'dsbn.'
#: Classifiers with something beside the network that prediction can do without.
_ADDING = ('LoRAClassifier', 'TestTimeClassifier')


def plain_model_config(cfg: Config) -> Config:
    """Copy a config without alignments, regularizers and start, to evaluate its model."""
    cfg = copy.deepcopy(cfg)
    for name in ('alignments', 'regularizers'):
        cfg.model.pop(name, None)
    if type_name(cfg.model) in _ADDING:
        # Their checkpoints are those of the network that they add to.
        cfg.model.type = 'AdaptationClassifier'
        cfg.model.pop('lora', None)
        cfg.model.pop('test_time', None)
    cfg.load_from, cfg.resume = None, False
    return cfg


class Interpolation:
    """Sweep from the source model to the adapted one.

    Args:
        runner: A runner for both models' config, whose validation is a ``DomainValLoop`` with the
            domains ``source`` and ``target``.
        source: The source model's ``state_dict``.
        adapted: The adapted model's. Parts that are used in training alone (alignments, a teacher)
            are ignored in both. Where the model keeps batch statistics by domain, a checkpoint
            without them has the same ones for both domains.
        statistics: Domains whose training images batch statistics are estimated from, at each alpha
            again: any of 'source' (``train_dataloader``) and 'target'
            (``train_cfg.target_dataloader``). Statistics interpolated like weights are measured
            too, and alone if this is empty. Networks without batch norm need none. Defaults to
            None, all of these that the config has.
        statistics_images: Maximum number of images of each domain. Defaults to 1000.
        metric: The validation metric. Defaults to 'accuracy/top1'. On a target that is validated
            without labels it is :data:`LABEL_FREE`.

    Attributes:
        target_metric: The target's metric, known once a point is measured.

    Raises:
        ValueError: If the config doesn't have what this needs.
    """

    def __init__(
        self,
        runner: Runner,
        source: dict[str, Tensor],
        adapted: dict[str, Tensor],
        statistics: Sequence[str] | None = None,
        statistics_images: int = 1000,
        metric: str = 'accuracy/top1',
    ) -> None:
        self.runner = runner
        self.source, self.adapted = self._comparable(source, adapted)
        self.statistics_images = statistics_images
        self.metric = self.target_metric = metric
        domains = getattr(runner.val_loop, 'domains', {})
        if 'target' not in domains:
            raise ValueError(
                'interpolation needs validation images of both domains: val_dataloader is the '
                "source, set val_cfg = dict(type='DomainValLoop', "
                'dataloaders=dict(target=dict(dataset=...)))'
            )
        configs = _train_loaders(runner.cfg)
        wanted = list(configs) if statistics is None else list(statistics)
        missing = [name for name in wanted if name not in configs]
        if missing:
            raise ValueError(
                f'batch statistics of {", ".join(missing)} need training images, and this config '
                f'has those of {", ".join(configs) or "no domain"}: the source is '
                'train_dataloader, the target train_cfg.target_dataloader'
            )
        self.statistics = wanted if norm_layers(self.model) else []
        self._loaders = [
            runner.build_dataloader(configs[name], seed=runner.seed) for name in self.statistics
        ]
        if {*self.statistics} == {'source', 'target'}:
            datasets = {name: each.dataset for name, each in zip(self.statistics, self._loaders)}
            check_source_and_target(**datasets, key='train_cfg.target_dataloader')

    @property
    def model(self) -> Any:
        """Return the runner's model without its wrapper."""
        return unwrap(self.runner.model)

    def _comparable(self, *models: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Select the weights of models, the source model first, that can be interpolated."""
        model = self.model
        by_domain = any(name.startswith(_SOURCE_STATISTICS) for name in model.state_dict())
        unused = LayerMap.training_only(model)
        states = [{n: v for n, v in each.items() if not n.startswith(unused)} for each in models]
        for each in states[1:]:
            check_same_network(states[0], each)
        if not by_domain and any(n.startswith(_SOURCE_STATISTICS) for each in models for n in each):
            raise ValueError(
                'a checkpoint keeps batch statistics by domain and the config has them jointly: '
                'set model.domain_specific_bn=True (--cfg-options '
                'model.domain_specific_bn=True)'
            )
        if not by_domain:
            return states
        unused = tuple(name for name in unused if name != _SOURCE_STATISTICS)
        return [self._with_statistics(each, unused) for each in models]

    def _with_statistics(
        self, state: dict[str, Tensor], unused: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Give a checkpoint's weights the statistics of both domains that the model would have."""
        model = self.model
        model.load_state_dict({n: v for n, v in state.items() if not n.startswith(unused)}, False)
        with model.statistics_of('source'):
            pass  # a model without statistics of the source initialises them here
        found = model.state_dict().items()
        return {n: v.cpu().clone() for n, v in found if not n.startswith(unused)}

    def sweep(self, alphas: Sequence[float]) -> Iterator[Point]:
        """Measure both models as they are, then every alpha between them and at their ends.

        Estimated batch statistics fit the interpolated weights; interpolated ones keep what
        fine-tuning has learned. Either can be better, so both are measured.

        Args:
            alphas: Each in [0, 1].

        Yields:
            Every point, as soon as it is measured.
        """
        for alpha in (0.0, 1.0):
            yield self._measure(alpha, 'own')
        for alpha in sorted(alphas):
            if self._loaders:
                yield self._measure(alpha, 'estimated')
            if alpha not in (0, 1):
                yield self._measure(alpha, 'interpolated')

    def mixed(self, point: Point) -> dict[str, Tensor]:
        """Return a point's weights, before batch statistics are estimated."""
        return interpolate_weights(self.source, self.adapted, point.alpha)

    def weights(self, point: Point) -> dict[str, Tensor]:
        """Load a point's weights into the runner's model and return its ``state_dict``."""
        model = self.model
        # Parts that are used in training alone stay as they are.
        model.load_state_dict(self.mixed(point), False)
        if point.statistics == 'estimated':
            # The same images, augmented alike, at every alpha.
            set_random_seed(self.runner.seed)
            self._estimate()
        return {name: value.cpu().clone() for name, value in model.state_dict().items()}

    def _estimate(self) -> None:
        model = adaptation_model(self.model)
        if model is None or not model.statistics_by_domain():
            self._estimate_from(self._loaders)
            return
        for name, loader in zip(self.statistics, self._loaders):
            with model.statistics_of(name):
                self._estimate_from([loader])

    def _estimate_from(self, loaders: Sequence[Any]) -> None:
        model = self.model
        estimate_batch_statistics(
            model,
            self._batches(loaders),
            lambda batch: model(**model.data_preprocessor(batch, False), mode='tensor'),
        )

    def _batches(self, loaders: Sequence[Any]) -> Iterator[dict]:
        for loader in loaders:
            count = max(self.statistics_images // loader.batch_size, 1)
            yield from (batch for batch in islice(loader, count) if len(batch['inputs']) > 1)

    def _measure(self, alpha: float, statistics: str, models: tuple[str, ...] = ()) -> Point:
        self.weights(Point(alpha, 0.0, 0.0, statistics, models))
        found = evaluate(self.runner, self.runner.val_loop)
        if f'target/{self.metric}' not in found and f'target/{LABEL_FREE}' in found:
            self.target_metric = LABEL_FREE
        names = (f'source/{self.metric}', f'target/{self.target_metric}')
        for name in names:
            if name not in found:
                raise ValueError(
                    f'the validation gives no {name}, but {", ".join(found)}: name one of them '
                    '(without the domain) as the metric'
                )
        return Point(alpha, *(float(found[name]) for name in names), statistics, models)


class Soup(Interpolation):
    """Average models that started from one, those that help by validation (greedy soup).

    Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", ICML 2022, arXiv 2203.05482.

    Args:
        runner: As in :class:`Interpolation`.
        source: The source model's ``state_dict``, which may be part of a soup as any other.
        models: Name -> ``state_dict`` of the adapted models.
        **options: ``statistics``, ``statistics_images``, ``metric``: as in :class:`Interpolation`.
    """

    def __init__(
        self,
        runner: Runner,
        source: dict[str, Tensor],
        models: Mapping[str, dict[str, Tensor]],
        **options: Any,
    ) -> None:
        super().__init__(runner, source, next(iter(models.values())), **options)
        states = self._comparable(source, *models.values())
        self.models = dict(zip((SOURCE, *models), states))

    def cook(self, rule: str = 'budget', budget: float = 1.0) -> Iterator[Point]:
        """Measure each model, then the best one with each other, the best of these first.

        A model stays in the soup if that is better by the rule, see :func:`choose`, which finds the
        soup among all points: the source model alone is inside any budget.

        Args:
            rule: See :func:`choose`.
            budget: See :func:`choose`.

        Yields:
            Every point, as soon as it is measured.
        """
        points = []
        for name in self.models:
            points.append(self._measure(float(name != SOURCE), 'own', (name,)))
            yield points[-1]
        for single in sorted(points, key=lambda point: -point.target):
            best = choose(points, rule, budget, self.target_metric).point
            models = (*best.models, *single.models)
            if single.models[0] in best.models:
                continue
            alpha = sum(name != SOURCE for name in models) / len(models)
            for statistics in ('estimated', 'interpolated')[not self._loaders :]:
                points.append(self._measure(alpha, statistics, models))
                yield points[-1]

    def mixed(self, point: Point) -> dict[str, Tensor]:
        """Return the mean of a point's models."""
        return average_weights([self.models[name] for name in point.models])


def _train_loaders(cfg: Config) -> dict[str, dict]:
    source = cfg.get('train_dataloader')
    found = {} if source is None else {'source': source}
    target = (cfg.get('train_cfg') or {}).get('target_dataloader')
    if target is not None:
        found['target'] = inherit_dataloader(source, target, 'train_cfg.target_dataloader')
    return found
