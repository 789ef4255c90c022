"""What mmengine logged while a rung trained, as numbers and pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

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


def plot_accuracy(runs: Sequence[list[dict]]) -> str:
    """Draw the validation accuracy of both domains, a line a seed; returns a data URI."""
    figure, axes = _figure('epoch or iteration', 'validation accuracy, %')
    for domain in ('source', 'target'):
        name = f'{domain}/accuracy/top1'
        for number, run in enumerate(runs):
            points = [(record['step'], record[name]) for record in run if name in record]
            if points:
                axes.plot(
                    *zip(*points),
                    color=COLOURS[domain],
                    lw=1,
                    marker='.',
                    label=None if number else domain,
                )
    axes.set_ylim(0, 101)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='lower right', frameon=False)
    return _data_uri(figure)


def plot_overview(results: dict) -> str:
    """Draw target against source accuracy, every rung, the frontier, the recommended one.

    Args:
        results: Content of results.json.

    Returns:
        A data URI.
    """
    figure, axes = _figure('source accuracy, %', 'target accuracy, %', size=(6.4, 4.2))
    recommendation = results['recommendation'] or {'rung': None, 'frontier': []}
    places = {}
    for rung in results['rungs']:
        x, y = rung['source_accuracy'], rung['target_accuracy']
        places[rung['name']] = (x, y)
        chosen = rung['name'] == recommendation['rung']
        axes.errorbar(
            x, y, rung['target_accuracy_spread'], rung['source_accuracy_spread'],
            marker='*' if chosen else 'o', markersize=15 if chosen else 6, capsize=2, lw=0.8,
            color=COLOURS['target'] if chosen else COLOURS['source'],
        )
        axes.annotate(
            rung['name'], (x, y), xytext=(6, 6), textcoords='offset points', fontsize=8,
            fontweight='bold' if chosen else None,
        )
    on_frontier = [places[name] for name in recommendation['frontier'] if name in places]
    axes.plot(*zip(*on_frontier), ls='--', lw=0.8, color='#888888') if on_frontier else None
    axes.margins(0.18)
    return _data_uri(figure)


def confusion_matrix(predictions: Iterable[dict], num_classes: int) -> np.ndarray:
    """Count predictions: rows are true classes, columns what was predicted.

    Args:
        predictions: Dicts of ``truth`` and ``predicted``, one a seed; they add up.
        num_classes: Number of classes.
    """
    counts = np.zeros((num_classes, num_classes), dtype=int)
    for found in predictions:
        np.add.at(counts, (found['truth'], found['predicted']), 1)
    return counts


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
    picture.save(file, format='PNG')
    return _encode(file)


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
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
