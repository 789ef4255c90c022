"""Candidates for choosing among models without target labels, and how they are judged.

Part of recommendations.py. A candidate gives each model of a target a number, higher is better,
from outputs.npz alone, which holds no target label. The judge alone reads those.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import harness  # noqa: F401  (puts the package on the path)
import numpy as np
import torch
import torch.nn.functional as F

from tl_plugin.evaluation.choice import SCORES, Vote, mutual_agreement
from tl_plugin.evaluation.choice import vote as ladder_vote
from tl_plugin.evaluation.expected_accuracy import expected_accuracy, raw_estimates
from tl_plugin.evaluation.shared_accuracy import log_odds
from tl_plugin.evaluation.source_reference import SourceReference, outputs_from
from tl_plugin.functional import control_variate_risk, density_ratio, matrix_norm
from tl_plugin.functional.frozen_alignment import logistic_regression
from tl_plugin.functional.validators import (
    batch_nuclear_norm,
    information_maximization,
    mean_entropy,
    soft_neighborhood_density,
)
from tl_plugin.ladder.recommend import BASELINE, SURE

#: Directions that a density ratio is fitted in: more than images can't be.
DIRECTIONS = 16


#: Signals that vote, alone and in twos and threes, and what the ladder uses of these votes.
SIGNALS = (
    'agreement',
    'consensus',
    'shared confidence',
    'COT',
    'information maximization',
    'nuclear norm',
    'confidence',
)
DEFAULT = 'vote: consensus, shared confidence'
#: What the ladder used before.
BEFORE = 'vote: agreement, COT'


def _unless_unsure(found: Vote) -> dict[str, float]:
    """Return the vote; the baseline's score is the highest where the best isn't surely ahead."""
    best = max(found.scores, key=found.scores.__getitem__)
    unsure = best != BASELINE and found.ahead(best, BASELINE) < SURE
    return {**found.scores, **({BASELINE: 2.0} if unsure else {})}


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
        'confidence': lambda m: float(m.probabilities.amax(1).mean()),
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
    together = torch.stack([model.probabilities for model in models.values()])
    for name, score in SCORES.items():
        found[name] = dict(zip(models, score(together).mean(1).tolist()))
    found['vote of all'] = vote(*found.values())
    for count in (2, 3):
        for names in itertools.combinations(SIGNALS, count):
            found[f'vote: {", ".join(names)}'] = vote(*(found[name] for name in names))
    product = ladder_vote({n: m.target.log_probabilities for n, m in models.items()})
    found[f'ladder: {DEFAULT}'] = _unless_unsure(product)
    return found


def judge_choice(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    accuracy: Mapping[str, Mapping[str, float]],
) -> dict:
    """Judge what each candidate chooses, and what a choice of a candidate on other pairs gives.

    Args:
        scores: Pair -> candidate -> model -> score.
        accuracy: Pair -> model -> percent of the target's test images that are right.
    """
    candidates = list(next(iter(scores.values())))
    chosen = {
        name: {pair: max(own[name], key=own[name].__getitem__) for pair, own in scores.items()}
        for name in candidates
    }
    behind = {
        name: {
            pair: max(accuracy[pair].values()) - accuracy[pair][rung] for pair, rung in of.items()
        }
        for name, of in chosen.items()
    }
    rows = []
    for name in candidates:
        gain = [
            accuracy[pair][rung] - accuracy[pair][BASELINE] for pair, rung in chosen[name].items()
        ]
        rows.append(
            dict(
                candidate=name,
                mean_behind=round(fmean(behind[name].values()), 2),
                most_behind=round(max(behind[name].values()), 2),
                within_two=sum(value <= 2 for value in behind[name].values()),
                below_nothing=sum(value < -1 for value in gain),
                gain=round(fmean(gain), 2),
                chosen=chosen[name],
            )
        )
    # Signals and votes of them; the ladder's own rule is a variant of its vote.
    free = [name for name in candidates if name in SIGNALS or name.startswith('vote: ')]
    left_out = {}
    for pair in scores:
        others = {n: fmean(v for p, v in behind[n].items() if p != pair) for n in free}
        by = min(others, key=others.__getitem__)
        left_out[pair] = dict(candidate=by, behind=round(behind[by][pair], 2))
    by = {one['candidate'] for one in left_out.values()}
    told = [r for r in rows if not r['candidate'].startswith('vote: ') or r['candidate'] in by]
    told += [r for r in rows if r['candidate'] in {DEFAULT, BEFORE} - by]
    return dict(
        rows=sorted(told, key=lambda row: row['mean_behind']),
        votes=len(free),
        leave_one_pair_out=left_out,
        leave_one_pair_out_mean=round(fmean(v['behind'] for v in left_out.values()), 2),
        nothing_behind=round(
            fmean(max(own.values()) - own[BASELINE] for own in accuracy.values()), 2
        ),
    )


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit slope and intercept of the log-odds of accuracy over those of mutual agreement."""
    shared, truth = (np.array([log_odds(value) for value in part]) for part in zip(*points))
    slope, shift = np.polyfit(shared, truth, 1)
    return float(slope), float(shift)


def judge_shared(models: Mapping[str, Mapping[str, Model]], accuracy: Mapping) -> dict:
    """Judge expected accuracy by agreement, each pair by a line that was fitted to the others.

    How far lines are off, which makes the intervals, is measured on the others, too: each of them
    by a line that was fitted to the rest.

    Args:
        models: Pair -> name -> model.
        accuracy: Pair -> name -> percent of the test images that are right.

    Returns:
        The mean error and the share of intervals that hold, and the line that all pairs give, which
        :mod:`tl_plugin.evaluation.shared_accuracy` has.
    """
    points = {}
    for pair, own in models.items():
        together = mutual_agreement(torch.stack([model.test for model in own.values()]))
        truth = [accuracy[pair][name] / 100 for name in own]
        points[pair] = list(zip(together.mean(1).tolist(), truth))

    def misses(pair: str, without: set[str]) -> list[float]:
        others = [one for p, of in points.items() if p not in without | {pair} for one in of]
        slope, shift = fit_line(others)
        return [
            log_odds(truth) - shift - slope * log_odds(shared) for shared, truth in points[pair]
        ]

    def spread(without: set[str]) -> float:
        found = [miss for p in points if p not in without for miss in misses(p, without)]
        return float(np.sqrt(np.mean(np.square(found))))

    errors, held, width, plain = [], [], [], []
    for pair, of in points.items():
        reach = 1.645 * spread({pair})
        for (shared, truth), miss in zip(of, misses(pair, set())):
            centre = log_odds(truth) - miss
            low, value, high = (1 / (1 + np.exp(-centre - way * reach)) for way in (-1, 0, 1))
            errors.append(abs(value - truth))
            plain.append(abs(shared - truth))
            held.append(low <= truth <= high)
            width.append(high - low)
    slope, shift = fit_line([one for of in points.values() for one in of])
    return dict(
        error=round(100 * fmean(errors), 1),
        plain_error=round(100 * fmean(plain), 1),
        intervals_hold=round(fmean(held), 3),
        mean_width=round(100 * fmean(width), 1),
        line=dict(slope=round(slope, 2), shift=round(shift, 2), spread=round(spread(set()), 2)),
    )


def judge_expected(models: Mapping[str, Mapping[str, Model]], accuracy: Mapping) -> dict:
    """Judge expected accuracy on the target's test images, in points.

    Args:
        models: Pair -> name -> model.
        accuracy: Pair -> name -> percent of the test images that are right.
    """
    errors: dict[str, list[float]] = {}
    trusted, held, width = [], [], []
    for pair, own in models.items():
        for name, model in own.items():
            truth, found = accuracy[pair][name], expected_accuracy(model.reference, model.test)
            for kind, values in (('as published', found.raw), ('read off', found.estimators)):
                for estimator, value in values.items():
                    key = f'{estimator.upper()}, {kind}'
                    errors.setdefault(key, []).append(abs(100 * value - truth))
            all_of = fmean(found.estimators.values())
            errors.setdefault('mean of those read off', []).append(abs(100 * all_of - truth))
            if found.value is not None:
                trusted.append(abs(100 * found.value - truth))
                held.append(100 * found.low <= truth <= 100 * found.high)
                width.append(100 * (found.high - found.low))
    total = sum(map(len, models.values()))
    return dict(
        models=total,
        shared=judge_shared(models, accuracy),
        errors={key: round(fmean(values), 1) for key, values in errors.items()},
        given=len(trusted),
        error_where_given=round(fmean(trusted), 1) if trusted else None,
        intervals_hold=round(fmean(held), 3) if held else None,
        mean_width=round(fmean(width), 1) if width else None,
    )
