"""What was found of the labels of a domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tl_plugin.evaluation.intervals import Estimate

#: Kinds of findings, the most urgent first.
KINDS = {
    'copies': 'copies of one image have different labels: at least one of them is wrong',
    'wrong': 'both judges are sure of another class',
    'outlier': 'unlike all other images: perhaps it shows none of the classes',
    'ambiguous': 'the judges doubt the label and disagree on another, or hesitate between two',
}
#: Share of wrong labels above which they are worth a training of their own.
NOISY = 0.05
#: Share of the labels that seem wrong which the judges name at least where they are to be trusted.
NAMED = 0.5


@dataclass(frozen=True)
class LabelFinding:
    """One image and what is thought of its label.

    Args:
        file: The image.
        given: Its label.
        likely: The class that the judges find most probable.
        score: 0 to 1; the higher, the more suspicious.
        kind: A key of :data:`KINDS`; '' where nothing stands out.
        reason: In words.
        right: Probability that the label is right; None where nobody judged.
    """

    file: str
    given: str
    likely: str
    score: float
    kind: str = ''
    reason: str = ''
    right: float | None = None


@dataclass(frozen=True)
class ClassPair:
    """Images of one class that are given another.

    Args:
        given: The label.
        true: The class that they seem to be of.
        share: Of all images.
        images: Number of them that are listed as wrong.
    """

    given: str
    true: str
    share: Estimate
    images: int


@dataclass(frozen=True)
class LabelReport:
    """The labels of one domain.

    Args:
        origin: What was read.
        judge: Who judged, in words.
        images: Labelled images that were judged.
        rate: Estimated share of wrong labels; None where there are too few images to say.
        pairs: By class pair, the most frequent first.
        findings: All judged images, the most suspicious first.
        notes: What could not be judged or is not to be trusted, in sentences.
        agreement: Share of the images that both judges put into one class; None for one judge.
    """

    origin: str
    judge: str
    images: int
    rate: Estimate | None
    pairs: tuple[ClassPair, ...]
    findings: tuple[LabelFinding, ...]
    notes: tuple[str, ...] = ()
    agreement: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether more than :data:`NOISY` of the labels are wrong, as far as the judges tell."""
        return self.rate is not None and self.rate.value > NOISY and self.trusted

    @property
    def trusted(self) -> bool:
        """Whether the estimate says more about the labels than about the judges.

        Judges that can't tell the classes apart contradict each other, and find labels wrong that
        are right: they have to agree on more images than seem wrong, and on which ones are.
        """
        if self.rate is None or self.agreement is None:
            return False
        named = len(self.flagged('wrong')) / max(self.images, 1)
        agree = 1 - self.agreement < self.rate.value and named >= NAMED * self.rate.value
        return agree or self.rate.value <= NOISY

    def flagged(self, kind: str | None = None) -> list[LabelFinding]:
        """Return the findings of a kind, or all that have one."""
        return [one for one in self.findings if one.kind and kind in (None, one.kind)]

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each kind."""
        return {kind: len(self.flagged(kind)) for kind in KINDS}

    def to_json(self) -> dict:
        """Return the summary and the images that stand out, as JSON can hold them."""
        return dict(
            origin=self.origin,
            judge=self.judge,
            images=self.images,
            rate=None if self.rate is None else self.rate._asdict(),
            agreement=self.agreement,
            trusted=self.trusted,
            kinds=dict(KINDS),
            counts=self.counts(),
            pairs=[{**vars(pair), 'share': pair.share._asdict()} for pair in self.pairs],
            findings=[vars(one) for one in self.flagged()],
            notes=list(self.notes),
        )


def join_reports(reports: Sequence[LabelReport]) -> LabelReport:
    """Join reports on the parts of a domain that was divided at random."""
    total = sum(one.images for one in reports)
    known = all(one.rate is not None and one.agreement is not None for one in reports)
    pairs: dict[tuple[str, str], list[tuple[ClassPair, float]]] = {}
    for one in reports:
        for pair in one.pairs:
            pairs.setdefault((pair.given, pair.true), []).append((pair, one.images / total))
    joined = [
        ClassPair(
            *names, _joined([(p.share, part) for p, part in found]), sum(p.images for p, _ in found)
        )
        for names, found in pairs.items()
    ]
    return replace(
        reports[0],
        images=total,
        rate=_joined([(one.rate, one.images / total) for one in reports]) if known else None,
        pairs=tuple(sorted(joined, key=lambda pair: -pair.share.value)),
        findings=tuple(sorted((f for r in reports for f in r.findings), key=lambda f: -f.score)),
        notes=tuple(dict.fromkeys(note for one in reports for note in one.notes)),
        agreement=sum(r.agreement * r.images / total for r in reports) if known else None,
    )


def _joined(estimates: Sequence[tuple[Estimate, float]]) -> Estimate:
    """Return the weighted sum of independent estimates."""
    value = sum(weight * one.value for one, weight in estimates)
    half = sum((weight * (one.high - one.low) / 2) ** 2 for one, weight in estimates) ** 0.5
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))
