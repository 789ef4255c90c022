"""Candidates for choosing among models without target labels, and how they are judged.

Part of recommendations.py. A candidate gives each model of a target a number, higher is better,
from outputs.npz alone, which holds no target label. The judge alone reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

import harness  # noqa: F401  (puts the package on the path)
import numpy as np
import torch
import torch.nn.functional as F

from tl_plugin.evaluation.expected_accuracy import expected_accuracy, raw_estimates
from tl_plugin.evaluation.source_reference import SourceReference, outputs_from
from tl_plugin.functional import control_variate_risk, density_ratio, matrix_norm
from tl_plugin.functional.frozen_alignment import logistic_regression
from tl_plugin.functional.validators import (
    batch_nuclear_norm,
    information_maximization,
    mean_entropy,
    soft_neighborhood_density,
)

BASELINE = 'source_only'
#: Directions that a density ratio is fitted in: more than images can't be.
DIRECTIONS = 16


class Model:
    """What is known of a model without target labels.

    Args:
        path: Of its outputs.npz.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        kept = {k: v for k, v in arrays.items() if k.startswith(('source.', 'degraded.'))}
        self.reference = SourceReference.from_arrays(kept)
        arrays.setdefault('target.labels', np.full(len(arrays['target.log_probabilities']), -1))
        self.target = outputs_from(arrays, 'target')
        self.probabilities = self.target.log_probabilities.exp()
        self.test = torch.from_numpy(arrays['test.probabilities'])
        mixed = arrays.get('mixed.log_probabilities')
        self.mixed = None if mixed is None else torch.from_numpy(mixed)
        self.cache: dict = {}


def dev(model: Model) -> float:
    """Deep embedded validation: minus the weighted risk on source images."""
    source, target = model.reference.source, model.target
    joint = torch.cat([source.features, target.features])
    axes = torch.linalg.svd(joint - joint.mean(0), full_matrices=False)[2][:DIRECTIONS]
    weights = density_ratio(source.features @ axes.T, target.features @ axes.T, decay=10.0)
    losses = F.nll_loss(source.log_probabilities, source.labels, reduction='none')
    return -float(control_variate_risk(weights, losses))


def mixval(model: Model, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """MixVal (Hu et al., NeurIPS 2023): a mixed image gets the class of its larger part.

    Pairs of one predicted class and pairs of two count alike.
    """
    predicted, mixed = model.probabilities.argmax(1), model.mixed.argmax(1)
    first, second = (predicted[torch.from_numpy(part)] for part in pairs)
    right, same = (mixed == first).float(), first == second
    kinds = [right[kind] for kind in (same, ~same) if kind.any()]
    return fmean(float(kind.mean()) for kind in kinds)


def circular(model: Model) -> float:
    """Circular validation (Bruzzone and Marconcini, TPAMI 2010): from the target to the source.

    A linear classifier learns the model's classes on target features; its accuracy on the source.
    """
    source, target = model.reference.source, model.target
    mean, deviation = target.features.mean(0), target.features.std(0) + 1e-4
    rows = F.normalize((target.features - mean) / deviation, dim=1)
    classes = source.log_probabilities.shape[1]
    weight = logistic_regression(rows, model.probabilities.argmax(1), classes, 10.0)
    back = F.normalize((source.features - mean) / deviation, dim=1)
    return float(((back @ weight.T).argmax(1) == source.labels).float().mean())


def read(model: Model) -> float:
    """Accuracy as :func:`tl_plugin.evaluation.expected_accuracy` reads it, trusted or not."""
    if 'read' not in model.cache:
        found = expected_accuracy(model.reference, model.probabilities)
        model.cache['read'] = fmean(found.estimators.values())
    return model.cache['read']


def raw(name: str) -> Callable[[Model], float]:
    """Return a published estimator of accuracy."""

    def score(model: Model) -> float:
        if 'raw' not in model.cache:
            model.cache['raw'] = raw_estimates(
                model.reference.source, model.target.log_probabilities
            )
        return model.cache['raw'][name]

    return score


def agreement(models: Mapping[str, Model]) -> dict[str, float]:
    """Mean share of images that the other models predict alike (generalised from Jiang et al.)."""
    votes = {name: model.probabilities.argmax(1) for name, model in models.items()}
    return {
        name: fmean(
            float((own == other).float().mean()) for key, other in votes.items() if key != name
        )
        for name, own in votes.items()
    }


def consensus(models: Mapping[str, Model]) -> dict[str, float]:
    """Mean probability of the class that all models together think most probable."""
    mean = torch.stack([model.probabilities for model in models.values()]).mean(0)
    labels = mean.argmax(1)
    return {
        name: float((model.probabilities.argmax(1) == labels).float().mean())
        for name, model in models.items()
    }


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the share of models that each isn't worse than; ties share."""
    values = np.array(list(scores.values()))
    return {
        name: float(((values < value).mean() + (values <= value).mean()) / 2)
        for name, value in scores.items()
    }


def vote(*of: Mapping[str, float]) -> dict[str, float]:
    """Return the mean rank."""
    ranked = [ranks(scores) for scores in of]
    return {name: fmean(one[name] for one in ranked) for name in of[0]}


def scores_of(
    models: Mapping[str, Model], pairs: tuple[np.ndarray, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return candidate -> model -> score."""
    single: dict[str, Callable[[Model], float]] = {
        'information maximization': lambda m: float(information_maximization(m.probabilities)),
        'nuclear norm': lambda m: float(batch_nuclear_norm(m.probabilities)),
        'entropy': lambda m: -float(mean_entropy(m.probabilities)),
        'soft neighbourhood density': lambda m: float(soft_neighborhood_density(m.probabilities)),
        'MaNo': lambda m: float(matrix_norm(m.target.log_probabilities)),
        'DEV': dev,
        'circular validation': circular,
        'ATC': raw('atc'),
        'DoC': raw('doc'),
        'COT': raw('cot'),
        'expected accuracy': read,
        'source accuracy': lambda m: m.reference.source.accuracy(),
    }
    if all(model.mixed is not None for model in models.values()):
        single['MixVal'] = lambda m: mixval(m, pairs)
    found = {key: {n: score(m) for n, m in models.items()} for key, score in single.items()}
    found['agreement'] = agreement(models)
    found['consensus'] = consensus(models)
    found['vote: agreement, COT'] = vote(found['agreement'], found['COT'])
    found['vote: consensus, COT, information maximization'] = vote(
        found['consensus'], found['COT'], found['information maximization']
    )
    found['vote of all'] = vote(*(found[key] for key in (*single, 'agreement')))
    return found
