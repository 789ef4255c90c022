"""How often a model is right when it is so sure: measured once, kept beside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS
from torch import Tensor

from tl_plugin.functional import (
    calibration_errors,
    conformal_threshold,
    error_by_chance,
    free_energy,
    shrunk_temperature,
)

from .feature_reference import FeatureReference, fit_reference
from .intervals import share_estimate

SUFFIX = '.calibration.json'
#: Fewer labelled images say too little of a temperature.
FEWEST = 30
#: So many classes that a class is confused with are kept one by one: without a bound what is kept
#: would grow with the square of the classes.
MOST_CONFUSED = 20
# Confidences that are tried as thresholds.
_THRESHOLDS = 500


@METRICS.register_module()
class CalibrationError(BaseMetric):
    """Expected calibration error, and its classwise form, in percent.

    See :func:`tl_plugin.functional.calibration_errors`. Images without a label are left out.

    Args:
        bins: Defaults to 15.
        collect_device: As in mmengine. Defaults to 'cpu'.
        prefix: Of the names in the log. Defaults to 'calibration'.

    Example:
        ``val_evaluator = [dict(type='Accuracy'), dict(type='CalibrationError')]``
    """

    default_prefix = 'calibration'

    def __init__(
        self, bins: int = 15, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not isinstance(bins, int) or bins < 1:
            raise ValueError(f'CalibrationError: bins must be a whole number from 1, got {bins!r}')
        self.bins = bins

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Keep the probabilities and the label of each image."""
        for sample in data_samples:
            label = sample.get('gt_label')
            if label is not None and label.numel() == 1 and int(label) >= 0:
                self.results.append((sample['pred_score'].float().cpu(), int(label)))

    def compute_metrics(self, results: list[tuple[Tensor, int]]) -> dict[str, float]:
        """Compute both errors; nothing where no image has a label."""
        if not results:
            return {}
        probabilities, labels = zip(*results)
        found = calibration_errors(torch.stack(probabilities), torch.tensor(labels), self.bins)
        return {
            'expected_error': 100 * found.expected,
            'classwise_error': 100 * found.classwise,
        }


@dataclass(frozen=True)
class Calibration:
    """What labelled images said of a model's confidence.

    Args:
        temperature: That logits are divided by.
        fitted_on: In words: the source's validation images, degraded or not.
        images: How many.
        classes: Names of the classes.
        checkpoint: Fingerprint of the model's weights.
        strategy: Strategies that adapted the model before.
        accuracy: On these images, 0 to 1.
        error_before: Expected calibration error on them without the temperature.
        error_after: With it, cross-fitted.
        classwise_before: Classwise calibration error without the temperature.
        classwise_after: With it.
        confidences: Calibrated, of the predicted class, one an image.
        correct: Whether it is right.
        true_probabilities: Calibrated, of the true class.
        weights: Of the images: how much denser the target lies there than the source.
        shares: Share of each class in the source.
        confusion: Mean calibrated probabilities of the images of each class, the highest
            :data:`MOST_CONFUSED` of each; none for a class without images. None for fewer images
            than classes.
        usual_energy: Energy below which 99% of the images lie.
        reference: Of the features; None where there are too few images.
        confused_with: The classes that ``confusion`` is of, row by row.
        error_by_chance: Expected calibration error of a calibrated model on so many images; None
            where an earlier version measured.
    """

    temperature: float
    fitted_on: str
    images: int
    classes: list[str]
    checkpoint: str
    strategy: list[str]
    accuracy: float
    error_before: float
    error_after: float
    classwise_before: float
    classwise_after: float
    confidences: list[float]
    correct: list[bool]
    true_probabilities: list[float]
    weights: list[float]
    shares: list[float]
    confusion: list[list[float]] | None
    usual_energy: float
    reference: FeatureReference | None
    confused_with: list[list[int]] | None = None
    error_by_chance: float | None = None

    def set_threshold(self, coverage: float) -> float:
        """Return from which calibrated probability on a class is in the prediction set."""
        return conformal_threshold(
            torch.tensor(self.true_probabilities), coverage, torch.tensor(self.weights)
        )

    def sure_threshold(self, precision: float) -> float | None:
        """Return the lowest confidence from which on so many predictions are right.

        The lower end of the 95% confidence interval of their share reaches the precision, there
        and above.

        Args:
            precision: In (0, 1).

        Returns:
            None where no confidence reaches it, or too few images do.
        """
        order = np.argsort(-np.array(self.confidences), kind='stable')
        weights = np.array(self.weights)[order]
        right = (np.array(self.correct)[order] * weights).cumsum()
        total = weights.cumsum()
        # As many equally weighted images would be as sure (Kish, "Survey Sampling", 1965).
        effective = total**2 / np.square(weights).cumsum()
        found = None
        for rank in range(0, len(order), max(len(order) // _THRESHOLDS, 1)):
            count = max(round(effective[rank]), 1)
            if share_estimate(round(count * right[rank] / total[rank]), count).low >= precision:
                found = self.confidences[order[rank]]
        return found

    def errors_in_words(self) -> str:
        """Return the expected calibration error before and after, and how much of it is chance."""
        chance = ''
        if self.error_by_chance is not None:
            chance = f' (a perfectly calibrated model: {self.error_by_chance:.1%}, by chance)'
        return (
            f'expected calibration error {self.error_before:.1%} before, {self.error_after:.1%} '
            f'after{chance}'
        )

    def confusion_matrix(self) -> Tensor | None:
        """Return the mean probabilities of the images of each class, (K, K); None without them.

        What isn't kept of a row lies evenly on the other classes. A class without images has zeros.
        """
        if self.confusion is None:
            return None
        number = len(self.shares)
        matrix = torch.zeros(number, number)
        # An earlier version kept all classes in their order.
        places = self.confused_with or [range(number)] * number
        for row, classes, values in zip(matrix, places, self.confusion):
            if values:
                row.fill_(max(1 - sum(values), 0.0) / max(number - len(values), 1))
                row[list(classes)] = torch.tensor(values)
        return matrix

    def to_json(self) -> dict:
        """Return what JSON can hold."""
        values = asdict(self)
        values['reference'] = None if self.reference is None else self.reference.to_json()
        return values

    @classmethod
    def from_json(cls, found: dict) -> Calibration:
        """Read what :meth:`to_json` gave."""
        reference = found['reference']
        return cls(
            **{
                **found,
                'reference': None if reference is None else FeatureReference.from_json(reference),
            }
        )


def calibration_path(checkpoint: str | Path) -> Path:
    """Return where the calibration of a checkpoint lies: beside it.

    >>> calibration_path('work_dirs/a/epoch_9.pth').as_posix()
    'work_dirs/a/epoch_9.calibration.json'
    """
    return Path(checkpoint).with_suffix(SUFFIX)


def outputs_path(calibration: str | Path) -> Path:
    """Return where the outputs for degraded source images lie: beside the calibration.

    >>> outputs_path('work_dirs/a/epoch_9.calibration.json').as_posix()
    'work_dirs/a/epoch_9.outputs.npz'
    """
    name = Path(calibration).name
    return Path(calibration).with_name(
        name.removesuffix('.json').removesuffix('.calibration') + '.outputs.npz'
    )


def fit_calibration(
    logits: Tensor,
    labels: Tensor,
    features: Tensor | None,
    weights: Tensor | None = None,
    temperature: float | None = None,
    reference: FeatureReference | None = None,
    **about: Any,
) -> Calibration:
    """Fit a temperature, and keep what thresholds are made of.

    Args:
        logits: Of labelled images that the model wasn't trained on, (N, K).
        labels: Their classes, (N,).
        features: (N, D), for ``reference``; None for none.
        weights: (N,), see :class:`Calibration`. Defaults to None, equal ones.
        temperature: One that was fitted elsewhere. Defaults to None: on these images, and shrunk
            towards 1 by how little they say of it.
        reference: Of features that was fitted elsewhere. Defaults to None, on these.
        **about: The fields of :class:`Calibration` that say where it comes from.

    Raises:
        ValueError: If there are fewer than :data:`FEWEST` images.
    """
    if len(labels) < FEWEST:
        raise ValueError(
            f'a calibration needs {FEWEST} labelled validation images or more, got {len(labels)}'
        )
    weights = torch.ones(len(labels)) if weights is None else weights
    fitted = temperature or shrunk_temperature(logits, labels, weights).value
    before = calibration_errors(logits.softmax(1), labels)
    # Each half with the temperature of the other: no image is judged by a fit that saw it.
    parts = torch.arange(len(labels)) % 2 == 0
    cooled = logits.clone()
    for part in (parts, ~parts):
        own = temperature or shrunk_temperature(logits[~part], labels[~part], weights[~part]).value
        cooled[part] = logits[part] / own
    after = calibration_errors(cooled.softmax(1), labels)
    probabilities = (logits / fitted).softmax(1)
    confidences, predicted = probabilities.max(1)
    counts = torch.bincount(labels, minlength=logits.shape[1])
    confused = _confusion(probabilities, labels) if len(labels) >= len(counts) else (None, None)
    if reference is None and features is not None:
        reference = fit_reference(features.numpy(), labels.numpy())
    return Calibration(
        temperature=fitted,
        images=len(labels),
        accuracy=(predicted == labels).float().mean().item(),
        error_before=before.expected,
        error_after=after.expected,
        classwise_before=before.classwise,
        classwise_after=after.classwise,
        confidences=_digits(confidences),
        correct=(predicted == labels).tolist(),
        true_probabilities=_digits(probabilities.gather(1, labels[:, None])[:, 0]),
        weights=_digits(weights),
        shares=_digits(counts / len(labels)),
        confusion=confused[0],
        confused_with=confused[1],
        usual_energy=free_energy(logits, fitted).quantile(0.99).item(),
        reference=reference,
        error_by_chance=error_by_chance(confidences),
        **about,
    )


def _confusion(probabilities: Tensor, labels: Tensor) -> tuple[list[list[float]], list[list[int]]]:
    """Return the highest mean probabilities of the images of each class, and their classes."""
    number = probabilities.shape[1]
    values: list[list[float]] = [[] for _ in range(number)]
    classes: list[list[int]] = [[] for _ in range(number)]
    for label in labels.unique().tolist():
        row = probabilities[labels == label].mean(0)
        places = row.topk(min(MOST_CONFUSED, number)).indices.sort().values
        values[label], classes[label] = _digits(row[places]), places.tolist()
    return values, classes


def _digits(values: Tensor) -> list[float]:
    return [float(f'{value:.7g}') for value in values.tolist()]
