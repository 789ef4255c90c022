"""What passes from a run to results, report and table. What can't be known is None in the type.

``results.schema.json`` beside this file describes the JSON of :class:`LadderResults`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

import numpy as np

from tl_plugin.evaluation.expected_accuracy import ExpectedAccuracy
from tl_plugin.stack.protocol import SOURCE, TARGET

#: The version of the files that these records are written to. Raised when a field changes.
SCHEMA_VERSION = 2
#: Domains that every rung reports, measured or not.
DOMAINS = (SOURCE, TARGET)
#: A prediction counts as confident from this probability of its class on.
CONFIDENT = 0.9
#: Why a run has no expected accuracy that was never asked for.
NOT_ESTIMATED = 'it was not estimated'


def check_schema_version(content: Mapping, what: str) -> None:
    """Refuse a file that another version of the package wrote.

    Args:
        content: Of the file.
        what: Name of the file, for the error.

    Raises:
        ValueError: If its ``schema_version`` isn't :data:`SCHEMA_VERSION`.
    """
    version = content.get('schema_version')
    if version != SCHEMA_VERSION:
        raise ValueError(
            f'{what} has schema_version {version}, and this version of tl_plugin reads '
            f'{SCHEMA_VERSION}: read it with the version that wrote it, or delete the folder of '
            'the runs and run tools/ladder.py again'
        )


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model on one domain's test images, in their order.

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
        """Number of images that have a label."""
        return sum(label is not None for label in self.truth)

    @property
    def accuracy(self) -> float | None:
        """Percent of the labelled images that are right; None without labels."""
        pairs = zip(self.truth, self.predicted)
        return percent([label == guess for label, guess in pairs if label is not None])

    @property
    def confident(self) -> float | None:
        """Percent of the images whose prediction has a probability of :data:`CONFIDENT` or more."""
        return percent([value >= CONFIDENT for value in self.confidence])

    def agreement(self, other: Predictions | None) -> float | None:
        """Return the percent of the images that another model predicts the same class for.

        Args:
            other: Predictions on the same images.

        Returns:
            None where there are none, or on another number of images.
        """
        if other is None or len(other) != len(self):
            return None
        return percent([ours == theirs for ours, theirs in zip(self.predicted, other.predicted)])

    def truths(self) -> np.ndarray:
        """Return ``truth`` as an array, (N,), with -1 where an image has no label."""
        return np.array([-1 if label is None else label for label in self.truth], dtype=int)

    def to_json(self) -> dict:
        """Return what :meth:`from_json` reads."""
        return {name: list(values) for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping) -> Predictions:
        """Read a domain of ``predictions.json``."""
        return cls(*(tuple(content[item.name]) for item in fields(cls)))


def percent(values: Sequence[bool]) -> float | None:
    """Return the percent of true values; None where there are no values."""
    return round(100 * sum(values) / len(values), 3) if values else None


@dataclass(frozen=True)
class KeptLayers:
    """How similar a model's layers are to the source model's, on validation images.

    Args:
        layers: Names of the compared layers, from shallow to deep.
        images: Domain -> number of images.
        cka: Domain -> debiased linear CKA by layer, 1 for equal; None for a layer that sees no
            difference between the images.
        cosine: Domain -> mean cosine of an image's features in both models.
        flips: Domain -> percent of the images whose predicted class differs.
        drift: Domain -> how far the classes' centres have moved, see
            :class:`~tl_plugin.evaluation.similarity.Similarity`.
        seconds: Duration of the comparison.
    """

    layers: list[str]
    images: dict[str, int]
    cka: dict[str, list[float | None]]
    cosine: dict[str, float | None]
    flips: dict[str, float | None]
    drift: dict[str, float | None]
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """What one finished run measured, the content of its ``result.json``.

    Args:
        key: Hash of the run's config, see :func:`~tl_plugin.ladder.ready_config.content_key`.
        checkpoint: Path of the trained model.
        seconds: What the user waits for the run: from the start of its process to its end, tests
            and comparison included, those of interrupted attempts too.
        training_seconds: Those of them in which it trains, its validations included.
        cores: Cores that it kept busy on average, see :mod:`tl_plugin.ladder.capacity`.
        memory: Bytes that it took at most.
        epochs: Number of epochs of training.
        iterations: Number of iterations of training.
        parameters: Number of weights of the model.
        trainable_parameters: Number of those that train.
        accuracy: Domain -> percent of its labelled test images that are right; None without labels.
        images: Domain -> number of test images.
        labelled: Domain -> number of those that have a label.
        confident: Domain -> percent of its test images that are predicted confidently.
        label_free: Domain -> scores of the predictions on its test images that need no labels, see
            :class:`~tl_plugin.evaluation.TargetValidator`.
        expected: What is expected of the accuracy on the target's test images without their labels,
            see :class:`~tl_plugin.evaluation.ExpectedAccuracy`; None where it wasn't estimated.
        validation: Metric -> value at the end of the run.
        metrics: Metric -> value of the test.
        classes: Names of the classes; empty where they have none.
        finished: Date and time in ISO 8601.
        kept_layers: Comparison with the source model; None where it wasn't made.
        left_out: Extra -> why the run is without it.
        schema_version: See :data:`SCHEMA_VERSION`.
    """

    key: str
    checkpoint: str = ''
    seconds: float = 0.0
    training_seconds: float = 0.0
    cores: float = 0.0
    memory: int = 0
    epochs: int = 0
    iterations: int = 0
    parameters: int = 0
    trainable_parameters: int = 0
    accuracy: dict[str, float | None] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    confident: dict[str, float | None] = field(default_factory=dict)
    label_free: dict[str, dict[str, float]] = field(default_factory=dict)
    expected: ExpectedAccuracy | None = None
    validation: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    finished: str | None = None
    kept_layers: KeptLayers | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def in_words(self) -> str:
        """Return the accuracy on each domain as text, for a line on the terminal."""
        return ', '.join(
            f'{name} {value:.1f}%' if value is not None else f'{name} {self._without_labels(name)}'
            for name, value in self.accuracy.items()
        )

    def _without_labels(self, domain: str) -> str:
        confident = self.confident.get(domain)
        known = '' if confident is None else f' (predicted confidently: {confident:.1f}%)'
        return f'without labels{known}'

    def to_json(self) -> dict:
        """Return what :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping, path: object = 'result.json') -> RunResult:
        """Read a ``result.json``.

        Args:
            content: Of the file.
            path: Name of the file, for the error.

        Raises:
            ValueError: If another version of the package wrote it.
        """
        check_schema_version(content, str(path))
        records = dict(
            kept_layers=_read(KeptLayers, content.get('kept_layers')),
            expected=_read(ExpectedAccuracy, content.get('expected')),
        )
        return cls(**{**content, **records})


def time_waited(results: Iterable[RunResult]) -> float:
    """Return for how many seconds at least one of some runs went on.

    Runs that went on at once count once. One without a time of its end counts by itself.

    Example:
        >>> noon, later = '2026-01-01T12:00:00+00:00', '2026-01-01T12:00:05+00:00'
        >>> runs = [RunResult('a', seconds=10, finished=noon)]
        >>> time_waited([*runs, RunResult('b', seconds=10, finished=later)])
        15.0
    """
    total, spans = 0.0, []
    for result in results:
        if result.finished is None:
            total += result.seconds
        else:
            end = datetime.fromisoformat(result.finished).timestamp()
            spans.append((end - result.seconds, end))
    last = float('-inf')
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


@dataclass(frozen=True)
class DomainResult:
    """What a rung reaches on the test images of one domain. Means are over its seeds.

    Args:
        accuracy: Mean percent of the labelled images that are right; None without labels.
        accuracy_by_seed: Accuracy of each seed.
        accuracy_spread: Standard deviation over the seeds; None for one seed.
        accuracy_interval: 95%, see :func:`~tl_plugin.evaluation.intervals.accuracy_interval`.
        images: Number of images that have a label, which the accuracy is over.
        test_images: Number of all test images.
        change: Points of accuracy against ``source_only``.
        confident: Mean percent of all images that are predicted confidently.
        agreement: Mean percent of all images that ``source_only`` predicts the same class for.
        label_free: Score that needs no labels -> its mean.
        expected_accuracy: Mean percent that is expected to be right, estimated without labels; None
            where nothing supports an estimate.
        expected_interval: 90%, mean of the seeds' ends; None likewise.
        no_expected_accuracy: Why there is no such estimate; None where there is one.
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
    label_free: dict[str, float | None] = field(default_factory=dict)
    expected_accuracy: float | None = None
    expected_interval: list[float] | None = None
    no_expected_accuracy: str | None = None

    @property
    def partly_labelled(self) -> bool:
        """Whether some of the images have labels and some have none."""
        return bool(self.images and self.test_images and self.images < self.test_images)


@dataclass(frozen=True)
class RungResult:
    """One rung's row.

    Args:
        name: The rung's.
        about: Description in plain words.
        strategies: Its overlays.
        data: What it learns from, see :class:`~tl_plugin.ladder.rungs.Rung`.
        start: Rung that it starts from; None for the config's own start.
        towards: Rung that gave the second of two models, or those whose models were averaged,
            separated by commas; None for other rungs.
        seeds: Of its finished runs.
        domains: Domain -> what it reaches there.
        interval_method: A key of :data:`~tl_plugin.evaluation.intervals.METHODS`.
        validation: Metric -> values by seed at the end.
        seconds: Mean of what the user waits for a run, from its start to its end.
        training_seconds: Mean of those in which a run trains.
        trainable_parameters: Number of weights that train.
        parameters: Number of all weights.
        epochs: Of the first seed.
        iterations: Of the first seed.
        kept_layers: Mean over the seeds; None where no seed was compared.
        config: Path of the first seed's ready config.
        checkpoint: Path of the first seed's model.
        command: Shell commands that repeat the first seed's run and test.
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
    training_seconds: float = 0.0
    trainable_parameters: int = 0
    parameters: int = 0
    epochs: int = 0
    iterations: int = 0
    kept_layers: KeptLayers | None = None
    config: str = ''
    checkpoint: str = ''
    command: str = ''
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def on(self, domain: str) -> DomainResult:
        """Return what it reaches on a domain; all figures are None where nothing is known."""
        return self.domains.get(domain, DomainResult())

    def validated(self, metric: str) -> float | None:
        """Return a validation metric's mean over the seeds; None where it wasn't measured.

        Args:
            metric: For example ``'target/accuracy/top1'``.
        """
        values = self.validation.get(metric)
        return sum(values) / len(values) if values else None

    @classmethod
    def from_json(cls, content: Mapping) -> RungResult:
        """Read a row of ``results.json``."""
        domains = {name: DomainResult(**one) for name, one in content['domains'].items()}
        kept_layers = _read(KeptLayers, content.get('kept_layers'))
        return cls(**{**content, 'domains': domains, 'kept_layers': kept_layers})


@dataclass(frozen=True)
class Recommendation:
    """The rung to take.

    Args:
        rung: Its name.
        reasons: In sentences, for somebody who doesn't train networks.
        measure: The validation metric that it was chosen by.
        frontier: Rungs that no other one beats on source and target both, by rising source.
        over_budget: Rungs that lose more of the source than the budget allows.
        ahead: Share of resamples of the validation images in which the best rung is ahead of
            ``source_only``, where it was chosen without labels; None where it wasn't.
    """

    rung: str
    reasons: list[str]
    measure: str
    frontier: list[str] = field(default_factory=list)
    over_budget: list[str] = field(default_factory=list)
    ahead: float | None = None


@dataclass(frozen=True)
class FailedRun:
    """A run that gave no result.

    Args:
        name: The rung's.
        seed: Its seed.
        reason: The error.
        log: Path of its console output; None for a run that wasn't started.
    """

    name: str
    seed: int
    reason: str
    log: str | None = None


@dataclass(frozen=True)
class LadderResults:
    """All results of a climb, the content of ``results.json``.

    Args:
        config: Name of the base config of the ladder.
        date: When it was written, in ISO 8601.
        commit: Of the package; None outside of a checkout.
        versions: Of Python and libraries; None for one that isn't installed.
        machine: In words.
        rungs: In order of cost.
        recommendation: None where there is none, and then :attr:`no_recommendation` says why.
        no_recommendation: Why there is no recommendation.
        not_climbed: Rungs that the climb stopped before -> why.
        left_out: Rungs that the config has no data for -> what is missing.
        failures: Runs that gave no result.
        notes: On the data, in sentences.
        schema_version: See :data:`SCHEMA_VERSION`.
    """

    config: str
    date: str = ''
    commit: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    machine: str = ''
    rungs: list[RungResult] = field(default_factory=list)
    recommendation: Recommendation | None = None
    no_recommendation: str | None = None
    not_climbed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[FailedRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @property
    def recommended(self) -> RungResult | None:
        """The row of the recommended rung; None where there is no recommendation."""
        return self.rung(self.recommendation.rung) if self.recommendation else None

    def rung(self, name: str) -> RungResult | None:
        """Return a rung's row; None where it has none."""
        return next((rung for rung in self.rungs if rung.name == name), None)

    def to_json(self) -> dict:
        """Return what :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping, path: object = 'results.json') -> LadderResults:
        """Read a ``results.json``.

        Args:
            content: Of the file.
            path: Name of the file, for the error.

        Raises:
            ValueError: If another version of the package wrote it.
        """
        check_schema_version(content, str(path))
        records = dict(
            rungs=[RungResult.from_json(rung) for rung in content['rungs']],
            recommendation=_read(Recommendation, content['recommendation']),
            failures=[FailedRun(**failure) for failure in content['failures']],
        )
        return cls(**{**content, **records})


def _read(cls: type, content: Mapping | None) -> Any:
    return None if content is None else cls(**content)
