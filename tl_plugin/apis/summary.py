"""What all predictions together say: counts of classes, expected accuracy, images to look at."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tl_plugin.analysis.reading import read_image
from tl_plugin.evaluation.expected_accuracy import expected_accuracy
from tl_plugin.evaluation.intervals import Estimate, share_estimate
from tl_plugin.functional import badge_selection, black_box_shift
from tl_plugin.reliability.files import write_json, write_text
from tl_plugin.reporting.page import render_page, thumbnail

from .chunks import Chunk
from .classifier import Classifier
from .image_list import ImageList
from .rows import Table, one_line
from .settings import Settings, Thresholds

TEMPLATE = Path(__file__).with_name('predictions.html.j2')
#: Images of each kind on the page, and classes in its table.
SHOWN, ROWS = 24, 200
#: Faults that are named; the table has all.
NAMED = 20


@dataclass(frozen=True)
class ClassCount:
    """One class among the predictions.

    Args:
        name: Of the class.
        predicted: Images that it is predicted for.
        share: Of the readable images.
        estimated: Its share, corrected for the mistakes that the model makes on the source
            (black-box shift estimation); None without calibration.
        source: Its share in the source; None without calibration.
    """

    name: str
    predicted: int
    share: float
    estimated: float | None
    source: float | None


@dataclass(frozen=True)
class Summary:
    """What all predictions together say.

    Args:
        out: The table.
        images: Rows of it.
        unreadable: Of them.
        faults: Name -> why it couldn't be read, of the first ones.
        classes: The most frequent first.
        mean_confidence: Of the readable images; calibrated where it says so.
        calibrated: Whether the model has a calibration.
        sure: Images whose prediction is sure at the wanted precision; None without calibration.
        precision: The wanted one.
        set_size: Mean number of classes in a prediction set; None without calibration.
        coverage: The wanted one.
        unlike_source: Images unlike the source's; None without calibration.
        accuracy: On the images whose label the input knew; None where it knew none.
        expected_accuracy: Estimated without labels, with its 90% interval; None where nothing
            supports an estimate.
        to_label: Images that were proposed for labelling.
        notes: What else the reader should know.
    """

    out: str
    images: int
    unreadable: int
    faults: dict[str, str]
    classes: tuple[ClassCount, ...]
    mean_confidence: float | None
    calibrated: bool
    sure: int | None
    precision: float
    set_size: float | None
    coverage: float
    unlike_source: int | None
    accuracy: Estimate | None
    expected_accuracy: Estimate | None
    to_label: int
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        """Return what JSON can hold."""
        values = asdict(self)
        for key in ('accuracy', 'expected_accuracy'):
            values[key] = None if values[key] is None else values[key]._asdict()
        return values


class Extremes:
    """The images with the highest values, of any number.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._heap: list[tuple[float, int, int, float]] = []

    def add(self, values: np.ndarray, chunk: Chunk) -> None:
        """Add the values of the images of a chunk; NaN for those without one."""
        known = np.flatnonzero(np.isfinite(values))
        best = known[np.argsort(-values[known], kind='stable')[: self.count]]
        for place in best.tolist():
            # Of equal values the first images are kept.
            item = (float(values[place]), -(chunk.start + place), int(chunk.labels[place, 0]))
            push = heapq.heappush if len(self._heap) < self.count else heapq.heappushpop
            push(self._heap, (*item, float(chunk.scores[place, 0])))

    def images(self) -> list[tuple[int, int, float]]:
        """Return number, predicted class and confidence, the highest value first."""
        return [
            (-number, label, score) for _, number, label, score in sorted(self._heap, reverse=True)
        ]


class Counted:
    """Counts over all chunks, read one at a time.

    Args:
        names: The images.
        classifier: That predicted them.
        settings: How.
        thresholds: What its calibration says.
    """

    def __init__(
        self, names: ImageList, classifier: Classifier, settings: Settings, thresholds: Thresholds
    ) -> None:
        calibration = thresholds.calibration
        reference = None if calibration is None else calibration.reference
        self.names, self.settings, self.thresholds = names, settings, thresholds
        self.table = Table(
            names,
            classifier.classes,
            settings.top_k,
            calibration is not None,
            thresholds.sure,
            None if calibration is None else calibration.usual_energy,
            None if reference is None else reference.usual,
        )
        self.extremes = {kind: Extremes(SHOWN) for kind in ('surest', 'least sure', 'strangest')}
        self.predicted = self.probabilities = np.zeros(0)
        self.images = self.unreadable = self.sure = self.unlike = self.members = 0
        self.confidence, self.right, self.labelled = 0.0, 0, 0
        self.faults: dict[str, str] = {}
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, chunk: Chunk) -> Chunk:
        """Count a chunk, and return it."""
        self._count_classes(chunk)
        read = chunk.faults == ''
        self.images += len(chunk)
        self.unreadable += int((~read).sum())
        for place in np.flatnonzero(~read)[: NAMED - len(self.faults)]:
            name = one_line(self.names[chunk.start + int(place)])
            self.faults[name] = str(chunk.faults[place])
        scores = chunk.scores[:, 0] if chunk.scores.shape[1] else np.full(len(chunk), np.nan)
        self.confidence += float(np.nansum(scores))
        strange = chunk.energy if np.isnan(chunk.distance).all() else chunk.distance
        for kind, values in zip(self.extremes.values(), (scores, -scores, strange)):
            kind.add(values, chunk)
        if self.table.sure is not None:
            self.sure += int((scores >= self.table.sure).sum())
        over = chunk.energy > (
            np.inf if self.table.usual_energy is None else self.table.usual_energy
        )
        if self.table.usual_distance is not None:
            over |= chunk.distance > self.table.usual_distance
        self.unlike += int(over.sum())
        self.members += int(np.unpackbits(chunk.sets).sum())
        self._count_right(chunk)
        if len(chunk.kept):
            self.kept.append((chunk.kept, chunk.kept_logits, chunk.kept_features))
        return chunk

    def _count_classes(self, chunk: Chunk) -> None:
        classes = len(chunk.probabilities)
        if not len(self.predicted) and classes:
            self.predicted, self.probabilities = np.zeros(classes, int), np.zeros(classes)
            if not self.table.classes:
                # Their numbers stand for names.
                self.table.classes = tuple(map(str, range(classes)))
        if classes:
            found = chunk.labels[:, 0]
            self.predicted += np.bincount(found[found >= 0], minlength=classes)
            self.probabilities += chunk.probabilities

    def _count_right(self, chunk: Chunk) -> None:
        for place in range(len(chunk) if self.names.labels else 0):
            label = self.names.labels.get(chunk.start + place)
            if label is not None and chunk.faults[place] == '':
                self.labelled += 1
                self.right += label == self.table.classes[chunk.labels[place, 0]]

    @property
    def readable(self) -> int:
        """Images that could be read."""
        return self.images - self.unreadable

    def sample(self) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Return numbers, logits and features of images evenly spread over all."""
        if not self.kept:
            return np.empty(0, int), torch.empty(0, 0), torch.empty(0, 0)
        numbers, logits, features = (np.concatenate(part) for part in zip(*self.kept))
        return numbers, torch.from_numpy(logits), torch.from_numpy(features)


def write_summary(out: Path, counted: Counted, notes: Sequence[str]) -> Summary:
    """Write ``NAME.summary.json`` and ``NAME.html``, and ``NAME.to_label.csv`` if asked for.

    Args:
        out: The table.
        counted: What it holds.
        notes: On how it was made.
    """
    calibration, settings = counted.thresholds.calibration, counted.settings
    known = calibration is not None
    expected, why = estimate_accuracy(counted)
    notes = [*notes, *filter(None, (counted.thresholds.why_none, why))]
    if known and counted.thresholds.sure is None:
        notes.append(
            f'No prediction is called sure: on {calibration.images} calibration images no '
            f'confidence has a precision of {settings.precision:.0%} for certain.'
        )
    chosen = images_to_label(counted)
    if settings.to_label > len(chosen):
        notes.append(f'{len(chosen)} images are left to label, of {settings.to_label} asked for.')
    summary = Summary(
        out=str(out),
        images=counted.images,
        unreadable=counted.unreadable,
        faults=counted.faults,
        classes=_class_counts(counted),
        mean_confidence=counted.confidence / counted.readable if counted.readable else None,
        calibrated=known,
        sure=counted.sure if known else None,
        precision=settings.precision,
        set_size=counted.members / counted.readable if known and counted.readable else None,
        coverage=settings.coverage,
        unlike_source=counted.unlike if known else None,
        accuracy=share_estimate(counted.right, counted.labelled) if counted.labelled else None,
        expected_accuracy=expected,
        to_label=len(chosen),
        notes=tuple(notes),
    )
    write_json(out.with_suffix('.summary.json'), summary.to_json())
    if settings.to_label:
        write_text(out.with_suffix('.to_label.csv'), _label_table(counted, chosen))
    write_text(out.with_suffix('.html'), predictions_page(summary, counted))
    return summary


def estimate_accuracy(counted: Counted) -> tuple[Estimate | None, str]:
    """Estimate the accuracy on the predicted images without their labels.

    Returns:
        The estimate, or None and why there is none, in a sentence.
    """
    outputs, (_, logits, _) = counted.thresholds.outputs, counted.sample()
    if outputs is None or not len(logits):
        return None, ''
    found = expected_accuracy(outputs, logits.softmax(1))
    if found.value is None:
        return None, f'Expected accuracy is {found.in_words()}.'
    return Estimate(found.value, found.low, found.high), ''


def images_to_label(counted: Counted) -> list[int]:
    """Choose images whose labels would teach most: uncertain, and unlike each other.

    Args:
        counted: With the sample that they are chosen from; images with a label are left out.

    Returns:
        Numbers of the images, in the order of their choice.
    """
    settings = counted.settings
    numbers, logits, features = counted.sample()
    free = np.array([number not in counted.names.labels for number in numbers.tolist()], bool)
    if not settings.to_label or not free.any():
        return []
    probabilities = (logits[free] / counted.thresholds.temperature).softmax(1)
    # A model without a head shows no features: its probabilities stand in.
    points = features[free] if features.shape[1] else probabilities
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = badge_selection(probabilities, points, settings.to_label, generator)
    return numbers[free][chosen.numpy()].tolist()


def _class_counts(counted: Counted) -> tuple[ClassCount, ...]:
    calibration = counted.thresholds.calibration
    total, estimated = max(counted.readable, 1), None
    if calibration is not None and counted.readable:
        shares = torch.tensor(calibration.shares)
        present = torch.arange(len(shares)).repeat_interleave((shares * 1000).round().long())
        confusion = calibration.confusion_matrix()
        mean = torch.from_numpy(counted.probabilities / counted.readable).float()
        if confusion is not None:
            estimated = black_box_shift(confusion[present], present, mean[None]).tolist()
    counts = [
        ClassCount(
            name,
            int(number),
            float(number / total),
            None if estimated is None else estimated[label],
            None if calibration is None else calibration.shares[label],
        )
        for label, (name, number) in enumerate(zip(counted.table.classes, counted.predicted))
    ]
    return tuple(sorted(counts, key=lambda count: -count.predicted))


def _label_table(counted: Counted, chosen: Sequence[int]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow(['image', 'label', 'prediction', 'confidence'])
    places = {int(number): place for place, number in enumerate(counted.sample()[0])}
    logits = counted.sample()[1]
    for number in chosen:
        probabilities = (logits[places[number]] / counted.thresholds.temperature).softmax(0)
        best = int(probabilities.argmax())
        name = one_line(counted.names[number])
        writer.writerow([name, '', counted.table.classes[best], f'{probabilities[best]:.4f}'])
    return buffer.getvalue()


def predictions_page(summary: Summary, counted: Counted) -> str:
    """Return the page of a summary: counts, and the images most worth a look."""
    pictures = {
        kind: [_picture(counted, *image) for image in extremes.images()]
        for kind, extremes in counted.extremes.items()
    }
    return render_page(
        TEMPLATE,
        **summary.to_json(),
        pictures={kind: [p for p in found if p] for kind, found in pictures.items()},
        rows=ROWS,
    )


def _picture(counted: Counted, index: int, label: int, confidence: float) -> dict | None:
    name = counted.names[index]
    image = read_image(name).image
    if image is None:  # gone since
        return None
    caption = f'{counted.table.classes[label]}, {confidence:.0%}'
    return dict(name=one_line(name), caption=caption, image=thumbnail(image))
