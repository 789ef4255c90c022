"""What passes from the runs to results, report and table. What can't be known is None in the type.

``results.schema.json`` beside this file describes the JSON of :class:`LadderResults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from .run_records import SCHEMA_VERSION, KeptLayers, check_schema_version, read_record


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
        kept_layers = read_record(KeptLayers, content.get('kept_layers'))
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
            recommendation=read_record(Recommendation, content['recommendation']),
            failures=[FailedRun(**failure) for failure in content['failures']],
        )
        return cls(**{**content, **records})
