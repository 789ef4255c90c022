"""The pictures of one rung in the report: its losses, its validation, what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import read_json
from tl_plugin.reporting import plots

from .progress import read_scalars
from .recommend import BASELINE, SOURCE_ACCURACY, TARGET_ACCURACY, TARGET_SCORE
from .records import RungResult
from .run_records import DOMAINS, Predictions

#: A confusion matrix of more classes can't be read, and shows :data:`FEW_CLASSES` of them.
MOST_CLASSES, FEW_CLASSES = 100, 20

#: Rung -> the predictions of each seed: domain -> predictions.
AllPredictions = Mapping[str, Sequence[Mapping[str, Predictions]]]


def rung_plots(
    rung: RungResult,
    predictions: AllPredictions,
    classes: Sequence[str],
    left_out: dict[str, str],
) -> dict:
    """Plot what one rung's runs and models did.

    Args:
        rung: Its row.
        predictions: Of all rungs.
        classes: Names of the classes.
        left_out: Gets what can't be plotted -> why.
    """

    def shown(what: str, make: Callable, *arguments: Any) -> Any:
        return attempt(f'{what} of {rung.name}', lambda: make(*arguments), left_out)

    records = shown('curves', lambda: [read_scalars(Path(f)) for f in rung.folders]) or []
    losses = [[(r['step'], r['loss']) for r in training] for training, _ in records]
    ends = [run[-1][1] for run in losses if run]
    drawn = {
        domain: shown(f'{domain} predictions', _predicted, rung, domain, predictions, classes)
        for domain in DOMAINS
    }
    return dict(
        row=rung,
        loss=shown('loss', plots.plot_loss, losses) if ends else None,
        final_loss=f'{np.mean(ends):.3f}' if ends else None,
        validation=shown('validation', _validation, [validation for _, validation in records]),
        interpolation=shown('interpolation', _interpolation, rung),
        predicted=[found for found in drawn.values() if found],
    )


def _validation(runs: Sequence[Sequence[Mapping]]) -> bytes | None:
    """Plot validation over time: accuracy, or of a target without labels the label-free score.

    Returns:
        None where nothing was validated twice, which makes no curve.
    """
    by_accuracy = any(TARGET_ACCURACY in record for run in runs for record in run)
    source, target = (
        [[(record['step'], record[name]) for record in run if name in record] for run in runs]
        for name in (SOURCE_ACCURACY, TARGET_ACCURACY if by_accuracy else TARGET_SCORE)
    )
    if max(map(len, [*source, *target]), default=0) < 2:
        return None
    return plots.plot_validation(source, target, by_accuracy)


def _predicted(
    rung: RungResult, domain: str, predictions: AllPredictions, classes: Sequence[str]
) -> dict | None:
    """Plot what a rung predicts on a domain, and say it in words.

    It is the confusion matrix of the images with labels; where none has one, how often each class
    is predicted, beside the source model.
    """
    found = [seed[domain] for seed in predictions[rung.name] if domain in seed]
    if not found:
        return None
    if any(seed.labelled for seed in found):
        truth, predicted = _labelled(found)
        confused = _most_confused(truth, predicted, classes)
        shown, which = _hardest(truth, predicted, len(classes)), ''
        if len(shown) < len(classes):
            which = f' (the {len(shown)} of {len(classes)} classes with most mistakes)'
        counts = confusion_counts(found, shown)
        totals = np.bincount(truth, minlength=len(classes))[shown]
        image = plots.plot_confusion(counts, [classes[i] for i in shown], domain, totals)
        return dict(
            image=image,
            alt=f'Confusion matrix of {rung.name} on {domain} test images{which}: {confused}',
            caption=f'{domain.capitalize()} test images, percent of each true class{which}: '
            f'{confused}',
        )
    before = [seed[domain] for seed in predictions.get(BASELINE, ()) if domain in seed]
    models = {BASELINE: before} if before else {}
    models[rung.name] = found
    shares = {}
    for name, seeds in models.items():
        labels = np.concatenate([np.array(seed.predicted, dtype=int) for seed in seeds])
        counts = np.bincount(labels, minlength=len(classes))
        shares[name] = 100 * counts / max(len(labels), 1)
    colours = {BASELINE: '#bbbbbb', rung.name: plots.COLOURS[domain]}
    own = shares[rung.name]
    most = np.argsort(-own, kind='stable')[:3]
    words = ', '.join(f'{classes[index]} {own[index]:.0f}%' for index in most)
    return dict(
        image=plots.plot_bars(shares, classes, 'images, %', colours, max_names=20),
        alt=f'How often {rung.name} predicts each class on {domain} test images: {words}',
        caption=f'{domain.capitalize()} test images, which have no labels: how often each class is '
        f'predicted ({words})',
    )


def confusion_counts(
    predictions: Sequence[Predictions], classes: int | Sequence[int]
) -> np.ndarray:
    """Count predictions of images with a label: rows are true classes, columns predicted ones.

    Args:
        predictions: One a seed; they add up. One image at least has a label.
        classes: How many there are, or numbers of those that count.
    """
    from sklearn.metrics import confusion_matrix

    labels = range(classes) if isinstance(classes, int) else classes
    return confusion_matrix(*_labelled(predictions), labels=labels)


def _labelled(predictions: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted class of all images with a label."""
    truth = np.concatenate([found.truths() for found in predictions])
    predicted = np.concatenate([found.predicted for found in predictions])
    return truth[truth >= 0], predicted[truth >= 0]


def _hardest(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes to show: all, or where they are many, those with most mistakes."""
    if num_classes <= MOST_CLASSES:
        return np.arange(num_classes)
    wrong = np.concatenate([side[truth != predicted] for side in (truth, predicted)])
    mistakes = np.bincount(wrong, minlength=num_classes)
    return np.sort(np.argsort(-mistakes, kind='stable')[:FEW_CLASSES])


def _most_confused(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], number: int = 3
) -> str:
    wrong = truth != predicted
    pairs, times = np.unique(np.stack([truth[wrong], predicted[wrong]]), axis=1, return_counts=True)
    named = [
        f'{classes[pairs[0, at]]} taken for {classes[pairs[1, at]]} ({times[at]} times)'
        for at in np.argsort(times)[::-1][:number]
    ]
    return ', '.join(named) or 'no mistakes'


def _interpolation(rung: RungResult) -> dict | None:
    """Return the first seed's interpolation, if the rung is one."""
    folder = Path(rung.folders[0])
    found = read_json(folder / 'interpolation.json')
    if found is None:
        return None
    return dict(image=(folder / 'interpolation.png').read_bytes(), chosen=found['chosen'])
