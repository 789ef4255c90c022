"""What mmengine logged while a rung trained, as numbers and pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .recommend import ACCURACY, SCORE, SOURCE
from .records import DomainResult, LadderResults, Predictions, RungResult

#: Images up to this many pixels a side are shown pixel by pixel.
_SMALL = 48
COLOURS = {'source': '#1f6f8b', 'target': '#c4502a', 'loss': '#444444'}


def read_scalars(folder: Path) -> tuple[list[dict], list[dict]]:
    """Read a run's ``scalars.json``, those of resumed attempts merged.

    Args:
        folder: The run's folder.

    Returns:
        Training records and validation records, each by rising ``step``. Where an attempt repeats a
        step of an earlier one, the later one counts.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            is_training = 'loss' in record
            (training if is_training else validation)[record['step']] = record
    return [training[step] for step in sorted(training)], [
        validation[step] for step in sorted(validation)
    ]


def plot_loss(runs: Sequence[list[dict]]) -> str:
    """Draw the training loss of several seeds; returns a data URI."""
    figure, axes = _figure('training iteration', 'loss')
    for run in runs:
        axes.plot([r['step'] for r in run], [r['loss'] for r in run], color=COLOURS['loss'], lw=1)
    axes.set_ylim(bottom=0)
    return _data_uri(figure)


def plot_validation(runs: Sequence[list[dict]]) -> str | None:
    """Draw what validation says of both domains, a line a seed.

    Accuracy where it is known; of a target without labels the score that chooses, against an axis
    of its own.

    Args:
        runs: Validation records of each seed.

    Returns:
        A data URI; None where nothing was validated twice, which makes no curve.
    """
    measures = {'source': SOURCE, 'target': ACCURACY}
    if not any(ACCURACY in record for run in runs for record in run):
        measures['target'] = SCORE
    curves = [
        (domain, number, [(r['step'], r[name]) for r in run if name in r])
        for domain, name in measures.items()
        for number, run in enumerate(runs)
    ]
    if max((len(points) for *_, points in curves), default=0) < 2:
        return None
    figure, axes = _figure('epoch or iteration', 'validation accuracy, %')
    axes.set_ylim(0, 101)
    places = dict.fromkeys(measures, axes)
    drawn = {domain for domain, _, points in curves if points}
    if measures['target'] == SCORE and 'target' in drawn:
        places['target'] = axes.twinx()
        places['target'].set_ylabel('target score, label-free', color=COLOURS['target'])
        places['target'].spines['top'].set_visible(False)
    for domain, number, points in curves:
        if points:
            label = None if number else domain
            places[domain].plot(*zip(*points), color=COLOURS[domain], lw=1, marker='.', label=label)
    figure.legend(loc='outside upper right', ncols=2, frameon=False)
    return _data_uri(figure)


@dataclass(frozen=True)
class Overview:
    """Every rung between what the source keeps and what the target gains.

    Args:
        image: Data URI.
        target: What the upright axis shows, in words.
        values: Rung -> what it reaches, in words.
    """

    image: str
    target: str
    values: dict[str, str]


def plot_overview(results: LadderResults) -> Overview | None:
    """Draw what is known of the target against source accuracy, every rung.

    That is accuracy on test images; where they have no labels, the label-free score on them. The
    frontier and the recommended rung are marked. Bars are 95% intervals. Points bear the rungs'
    numbers, whose names stand beside the picture.

    Args:
        results: Of a climb.

    Returns:
        None where nothing is known of the target or of the source.
    """
    by_accuracy = any(rung.on('target').accuracy is not None for rung in results.rungs)
    name = 'target accuracy, %' if by_accuracy else 'target score, label-free'
    places = {}
    for number, rung in enumerate(results.rungs, 1):
        target = rung.on('target')
        value = target.accuracy if by_accuracy else target.label_free.get(SCORE.split('/')[-1])
        if value is not None and rung.on('source').accuracy is not None:
            places[number] = (rung.on('source').accuracy, value)
    if not places:
        return None
    figure, axes = _figure('source accuracy, %', name, size=(5.4, 4.0))
    words = {}
    for number, (x, y) in places.items():
        rung = results.rungs[number - 1]
        chosen = rung is results.recommended
        bars = [_bars(rung.on('target')) if by_accuracy else None, _bars(rung.on('source'))]
        axes.errorbar(
            x,
            y,
            *bars,
            elinewidth=0.6,
            alpha=0.85,
            marker='*' if chosen else 'o',
            markersize=15 if chosen else 6,
            capsize=2,
            color=COLOURS['target'] if chosen else COLOURS['source'],
            ls='none',
        )
        words[rung.name] = f'{y:.1f}% and {x:.1f}%' if by_accuracy else f'{y:.2f} and {x:.1f}%'
    advice = results.recommendation
    by_name = {results.rungs[number - 1].name: place for number, place in places.items()}
    on_frontier = [by_name[name] for name in (advice.frontier if advice else ()) if name in by_name]
    axes.plot(*zip(*on_frontier), ls='--', lw=0.8, color='#888888') if on_frontier else None
    axes.margins(0.1)
    for (x, y), numbers in _together(places):
        text = ', '.join(map(str, numbers))
        axes.annotate(text, (x, y), xytext=(6, 5), textcoords='offset points', fontsize=11)
    return Overview(_data_uri(figure), name, words)


def plot_kept_layers(rungs: dict[int, RungResult], domain: str) -> str:
    """Draw how alike each rung's layers are to the source model's; returns a data URI.

    Args:
        rungs: Number that the rung is called by -> the rung, with ``kept_layers``.
        domain: On whose images.
    """
    found = [rung.kept_layers for rung in rungs.values()]
    layers = found[0]['layers']
    grid = np.array([[np.nan if v is None else v for v in each[domain]['cka']] for each in found])
    names = [_short(name) for name in layers]
    # A row of one rung would else leave no room to names that stand upright.
    below = max(1.6, 1.0 + 0.09 * max(map(len, names)))
    size = (1.0 + 0.42 * max(len(layers), 4), below + 0.32 * len(rungs))
    figure, axes = _figure('layers, from the image to the decision', 'rung', size=size)
    axes.imshow(grid, vmin=0, vmax=1, cmap='viridis', aspect='auto')
    axes.set_xticks(range(len(layers)), names, rotation=90)
    axes.set_yticks(range(len(rungs)), list(rungs))
    for row, column in np.argwhere(np.isfinite(grid)):
        value = grid[row, column]
        colour = 'black' if value > 0.6 else 'white'
        text = '1' if value >= 0.995 else f'{max(value, 0):.2f}'.lstrip('0')
        axes.text(column, row, text, ha='center', va='center', fontsize=9, color=colour)
    return _data_uri(figure)


def _short(name: str) -> str:
    while len(name) > 12 and '.' in name:
        name = name.split('.', 1)[1]
    return name


def _together(places: Mapping[int, tuple[float, float]]) -> list[tuple[tuple, list[int]]]:
    """Numbers of points that lie so near each other that they share a label."""
    spans = [np.ptp(axis) or 1.0 for axis in zip(*places.values())]
    labels: list[tuple[tuple, list[int]]] = []
    for number, place in places.items():
        for first, numbers in labels:
            if all(abs(a - b) < 0.04 * span for a, b, span in zip(first, place, spans)):
                numbers.append(number)
                break
        else:
            labels.append((place, [number]))
    return labels


def _bars(found: DomainResult) -> list[list[float]] | None:
    """How far an interval reaches below and above its accuracy."""
    interval, value = found.accuracy_interval, found.accuracy
    return interval and [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]]


def confusion_matrix(predictions: Iterable[Predictions], num_classes: int) -> np.ndarray:
    """Count predictions of images with a label: rows are true classes, columns predicted ones.

    Args:
        predictions: One a seed; they add up.
        num_classes: Number of classes.
    """
    counts = np.zeros((num_classes, num_classes), dtype=int)
    for found in predictions:
        truth = found.truths()
        known = truth >= 0
        np.add.at(counts, (truth[known], np.array(found.predicted, dtype=int)[known]), 1)
    return counts


def plot_predicted(shares: Mapping[str, np.ndarray], classes: Sequence[str]) -> str:
    """Draw how often models predict each class; returns a data URI.

    Args:
        shares: Model -> percent of the images by class, (K,). The last one is in the foreground.
        classes: Names, (K,).
    """
    figure, axes = _figure('images, %', 'predicted class', size=(3.4, 3.4))
    width = 0.8 / len(shares)
    shades = ['#bbbbbb', COLOURS['target']][-len(shares) :]
    for place, (name, values) in enumerate(shares.items()):
        rows = np.arange(len(classes)) + (place - (len(shares) - 1) / 2) * width
        axes.barh(rows, values, height=width, color=shades[place], label=name)
    axes.invert_yaxis()
    if len(classes) <= 20:
        axes.set_yticks(range(len(classes)), classes)
    if len(shares) > 1:
        figure.legend(loc='outside upper right', ncols=2, frameon=False, fontsize=8)
    return _data_uri(figure)


def plot_confusion(counts: np.ndarray, classes: Sequence[str], domain: str) -> str:
    """Draw a confusion matrix in shares of each true class; returns a data URI."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure('predicted', 'true', size=(3.4, 3.4))
    axes.imshow(shares, vmin=0, vmax=1, cmap='Blues' if domain == 'source' else 'Oranges')
    if len(classes) <= 20:
        axes.set_xticks(range(len(classes)), classes, rotation=90 if _long(classes) else 0)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 12:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            colour = 'white' if share > 0.5 else 'black'
            text = f'{100 * share:.0f}'
            axes.text(column, row, text, ha='center', va='center', fontsize=6, color=colour)
    return _data_uri(figure)


def image_data_uri(image: np.ndarray, max_size: int = 128) -> str:
    """Turn an ``(H, W, 3)`` RGB uint8 image into a data URI, shrunk to ``max_size`` pixels."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((max_size, max_size))
    file = io.BytesIO()
    if max(picture.size) <= _SMALL:
        picture.save(file, format='PNG')
        return _encode(file)
    # Photographs as PNG would make a report of many rungs larger than a mail may be.
    picture.convert('RGB').save(file, format='JPEG', quality=90, subsampling=0)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def _long(classes: Sequence[str]) -> bool:
    return max(map(len, classes), default=0) > 2


def _figure(x_label: str, y_label: str, size: tuple[float, float] = (4.6, 2.8)):
    # Not pyplot: no display is needed, no state is left behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _data_uri(figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130)
    return _encode(file)


def _encode(file: io.BytesIO) -> str:
    return png_data_uri(file.getvalue())


def png_data_uri(content: bytes) -> str:
    """Turn a PNG's bytes into a data URI."""
    return 'data:image/png;base64,' + base64.b64encode(content).decode()
