"""What passes from a run to results, report and table. What can't be known is None in the type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

#: A prediction counts as confident from this probability of its class on.
CONFIDENT = 0.9
TARGET = 'target'


@dataclass(frozen=True)
class Predictions:
    """What a model says of one domain's test images, in their order.

    Args:
        truth: True class of each image; None where an image has no label, or one of a class that
            the model doesn't know.
        predicted: Predicted class.
        confidence: Probability of that class, in [0, 1].

    Example:
        >>> found = Predictions((1, 2, None), (1, 1, 1), (0.95, 0.5, 0.4))
        >>> found.accuracy, found.labelled, found.confident
        (50.0, 2, 33.333)
    """

    truth: tuple[int | None, ...]
    predicted: tuple[int, ...]
    confidence: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def labelled(self) -> int:
        """How many images have a label."""
        return sum(label is not None for label in self.truth)

    @property
    def accuracy(self) -> float | None:
        """Percent of the labelled images that are right; None without labels."""
        pairs = zip(self.truth, self.predicted)
        return percent([label == said for label, said in pairs if label is not None])

    @property
    def confident(self) -> float | None:
        """Percent of the images whose prediction has a probability of :data:`CONFIDENT` or more."""
        return percent([value >= CONFIDENT for value in self.confidence])

    def agreement(self, other: Predictions | None) -> float | None:
        """Percent of the images of which another model says the same.

        Args:
            other: Of the same images; None, or another number of them, gives None.
        """
        if other is None or len(other) != len(self):
            return None
        return percent([ours == theirs for ours, theirs in zip(self.predicted, other.predicted)])

    def truths(self) -> np.ndarray:
        """``truth`` as an array, (N,), -1 where an image has no label."""
        return np.array([-1 if label is None else label for label in self.truth], dtype=int)

    def to_json(self) -> dict:
        """Give what :meth:`from_json` reads."""
        return {name: list(values) for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping) -> Predictions:
        """Read a domain of ``predictions.json``."""
        return cls(*(tuple(content[item.name]) for item in fields(cls)))


def percent(values: Sequence[bool]) -> float | None:
    """Give the share of true ones; None of nothing."""
    return round(100 * sum(values) / len(values), 3) if values else None


@dataclass(frozen=True)
class RunResult:
    """What one finished run found, the content of its ``result.json``.

    Args:
        key: What it is filed under, see :func:`~tl_plugin.ladder.ready_config.content_key`.
        checkpoint: The trained model.
        seconds: Of training and testing.
        epochs: Done.
        iterations: Done.
        parameters: Weights of the model.
        trainable_parameters: Those of them that train.
        accuracy: Domain -> percent of its labelled test images that are right; None without labels.
        images: Domain -> number of test images.
        labelled: Domain -> number of those that have a label.
        confident: Domain -> percent of its test images that are predicted confidently.
        label_free: Domain -> scores of the predictions on its test images that need no labels, see
            :class:`~tl_plugin.evaluation.LabelFreeScore`.
        validation: Metric -> value at the end of the run.
        metrics: Metric -> value of the test.
        classes: Names of the classes, where they have some.
        finished: When, as ISO 8601.
        kept_layers: See :func:`~tl_plugin.ladder.kept_layers.kept_layers`.
        left_out: Extra -> why the run is without it.
    """

    key: str
    checkpoint: str = ''
    seconds: float = 0.0
    epochs: int = 0
    iterations: int = 0
    parameters: int = 0
    trainable_parameters: int = 0
    accuracy: dict[str, float | None] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    confident: dict[str, float | None] = field(default_factory=dict)
    label_free: dict[str, dict[str, float]] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    finished: str | None = None
    kept_layers: dict | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def in_words(self) -> str:
        """Say what was reached, domain by domain, for a line on the terminal."""
        return ', '.join(
            f'{name} {value:.1f}%' if value is not None else f'{name} {self._without_labels(name)}'
            for name, value in self.accuracy.items()
        )

    def _without_labels(self, domain: str) -> str:
        confident = self.confident.get(domain)
        known = '' if confident is None else f' (predicted confidently: {confident:.1f}%)'
        return f'without labels{known}'

    def to_json(self) -> dict:
        """Give what :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping) -> RunResult:
        """Read a ``result.json``, those of older versions included."""
        found = cls(**_known(cls, content))
        if 'labelled' in content:
            return found
        # Before there was that key, every domain that has an accuracy had labels throughout.
        return cls(**{**vars(found), 'labelled': dict(found.images)})


@dataclass(frozen=True)
class DomainResult:
    """What a rung reaches on the test images of one domain. Means are over its seeds.

    Args:
        accuracy: Mean percent of the labelled images that are right; None without labels.
        accuracy_by_seed: Of each seed.
        accuracy_spread: Standard deviation over the seeds; None for one seed.
        accuracy_interval: 95%, see :func:`~tl_plugin.evaluation.intervals.accuracy_interval`.
        images: Number of images that have a label, which the accuracy is over.
        test_images: Number of all test images.
        change: Points of accuracy against ``source_only``.
        confident: Mean percent of all images that are predicted confidently.
        agreement: Mean percent of all images of which ``source_only`` says the same.
        label_free: Score that needs no labels -> its mean.
    """

    accuracy: float | None = None
    accuracy_by_seed: list[float | None] = field(default_factory=list)
    accuracy_spread: float | None = None
    accuracy_interval: list[float] | None = None
    images: int | None = None
    test_images: int | None = None
    change: float | None = None
    confident: float | None = None
    agreement: float | None = None
    label_free: dict[str, float] = field(default_factory=dict)

    @property
    def partly_labelled(self) -> bool:
        """Whether some of the images have labels and some have none."""
        return bool(self.images and self.test_images and self.images < self.test_images)


#: Of a domain without a result.
NOTHING = DomainResult()


@dataclass(frozen=True)
class RungResult:
    """One rung's row.

    Args:
        name: The rung's.
        about: What it does, in plain words.
        strategies: Its overlays.
        data: What it learns from, see :class:`~tl_plugin.ladder.rung.Rung`.
        start: Rung that it starts from.
        towards: Rung that gave the second of two models.
        seeds: Of its finished runs.
        domains: Domain -> what it reaches there. In JSON its fields are ``<domain>_<field>``.
        interval_method: A key of :data:`~tl_plugin.evaluation.intervals.METHODS`.
        validation: Metric -> values by seed at the end.
        seconds: Mean of training and testing.
        trainable_parameters: Weights that train.
        parameters: All weights.
        epochs: Of the first seed.
        iterations: Of the first seed.
        kept_layers: See :func:`~tl_plugin.ladder.results.mean_kept_layers`.
        config: The first seed's ready config.
        checkpoint: The first seed's model.
        command: What makes the first seed's run again.
        folders: Of all seeds.
        left_out: Extra -> why the rung is without it.
    """

    name: str
    about: str = ''
    strategies: list[str] = field(default_factory=list)
    data: str = 'source'
    start: str | None = None
    towards: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    domains: dict[str, DomainResult] = field(default_factory=dict)
    interval_method: str = 'images'
    validation: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    trainable_parameters: int = 0
    parameters: int = 0
    epochs: int = 0
    iterations: int = 0
    kept_layers: dict | None = None
    config: str = ''
    checkpoint: str = ''
    command: str = ''
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def on(self, domain: str) -> DomainResult:
        """Give what it reaches on a domain; one whose figures are all None where it has none."""
        return self.domains.get(domain, NOTHING)

    def validated(self, metric: str) -> float | None:
        """Give the mean over the seeds of a metric on validation images; None where there is none.

        Args:
            metric: ``'target/accuracy/top1'``, say.
        """
        values = self.validation.get(metric)
        return sum(values) / len(values) if values else None

    def to_json(self) -> dict:
        """Give what :meth:`from_json` reads."""
        content = {}
        for item in fields(self):
            if item.name != 'domains':
                content[item.name] = getattr(self, item.name)
                continue
            for domain, found in self.domains.items():
                content.update({f'{domain}_{key}': value for key, value in asdict(found).items()})
        return content

    @classmethod
    def from_json(cls, content: Mapping) -> RungResult:
        """Read a row of ``results.json``, of those of older versions too."""
        suffix = '_accuracy'
        domains = {}
        for name in (key[: -len(suffix)] for key in content if key.endswith(suffix)):
            keys = {item.name: f'{name}_{item.name}' for item in fields(DomainResult)}
            found = {key: content[flat] for key, flat in keys.items() if flat in content}
            found.setdefault('test_images', found.get('images'))
            domains[name] = DomainResult(**found)
        return cls(domains=domains, **_known(cls, content))


@dataclass(frozen=True)
class Recommendation:
    """The rung to take.

    Args:
        rung: Its name.
        reasons: In sentences, for somebody who doesn't train networks.
        measure: The validation metric that chose.
        frontier: Rungs that no other one beats on source and target both, by rising source.
        over_budget: Rungs that lose more of the source than the budget allows.
    """

    rung: str
    reasons: list[str]
    measure: str
    frontier: list[str] = field(default_factory=list)
    over_budget: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FailedRun:
    """A run that gave no result.

    Args:
        name: The rung's.
        seed: Its seed.
        reason: What went wrong.
        log: Where it says more.
    """

    name: str
    seed: int
    reason: str
    log: str | None = None


@dataclass(frozen=True)
class LadderResults:
    """All that a climb found, the content of ``results.json``.

    Args:
        config: Name of the config that the ladder stands on.
        date: When it was written, as ISO 8601.
        commit: Of the package.
        versions: Of Python and libraries.
        machine: In words.
        rungs: In order of cost.
        recommendation: None where there is none, and then :attr:`no_recommendation` says why.
        no_recommendation: Why there is no recommendation.
        not_climbed: Rungs that the climb stopped before -> why.
        left_out: Rungs that the config has no data for -> what is missing.
        failures: Runs that gave no result.
        notes: On the data, in sentences.
    """

    config: str
    date: str = ''
    commit: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    machine: str = ''
    rungs: tuple[RungResult, ...] = ()
    recommendation: Recommendation | None = None
    no_recommendation: str | None = None
    not_climbed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: tuple[FailedRun, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def recommended(self) -> RungResult | None:
        """The row of the recommended rung; None where there is no recommendation."""
        return self.rung(self.recommendation.rung) if self.recommendation else None

    def rung(self, name: str) -> RungResult | None:
        """Give a rung's row; None where it has none."""
        return next((rung for rung in self.rungs if rung.name == name), None)

    def to_json(self) -> dict:
        """Give what :meth:`from_json` reads."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            'rungs': [rung.to_json() for rung in self.rungs],
            'recommendation': asdict(self.recommendation) if self.recommendation else None,
            'failures': [asdict(failure) for failure in self.failures],
            'notes': list(self.notes),
        }

    @classmethod
    def from_json(cls, content: Mapping) -> LadderResults:
        """Read a ``results.json``, those of older versions included."""
        found = _known(cls, content)
        chosen = content.get('recommendation')
        found['recommendation'] = Recommendation(**chosen) if chosen else None
        found['rungs'] = tuple(map(RungResult.from_json, content['rungs']))
        failures = content.get('failures') or ()
        found['failures'] = tuple(FailedRun(**_known(FailedRun, one)) for one in failures)
        found['notes'] = tuple(content.get('notes') or ())
        return cls(**found)


def _known(cls: type, content: Mapping) -> dict[str, Any]:
    """What a dataclass has fields for: files may come from an older or a newer version."""
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in content.items() if name in names}
