"""What one run measured, the content of its ``result.json`` and ``predictions.json``.

What can't be known is None in the type.
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
#: Why a run is without an extra: its process ended before that was measured.
ENDED = 'the run ended while it was measured'


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

    @property
    def ended_early(self) -> bool:
        """Whether its process ended before all was measured: another one does the rest."""
        return ENDED in self.left_out.values()

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
            kept_layers=read_record(KeptLayers, content.get('kept_layers')),
            expected=read_record(ExpectedAccuracy, content.get('expected')),
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


def read_record(cls: type, content: Mapping | None) -> Any:
    """Return a record that another one holds; None where it holds none."""
    return None if content is None else cls(**content)
