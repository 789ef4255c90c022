"""What a run reached: at its end, and where a score without labels would have stopped it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tl_plugin.reliability.files import read_json

from .progress import read_scalars
from .records import RunResult
from .run_rung import RESULT_NAME

#: The score that chooses, and what it is measured against. Fixed before anything was measured.
CHOOSES = 'target/label_free/information_maximization'
TARGET = 'target/accuracy/top1'


def measure(folder: Path) -> dict:
    """Read what a finished run reached.

    Args:
        folder: The run's, with ``result.json`` and mmengine's ``scalars.json``.

    Returns:
        ``source`` and ``target``: accuracy at the last iteration in percent, None where the test
        images have no labels; where the run
        validated the target, ``chosen`` (target accuracy at the validation that the label-free
        score prefers) and ``oracle`` (the best one, which takes labels to know), with ``steps``,
        theirs; ``minutes``, ``parameters``, ``finished``.
    """
    result = RunResult.from_json(read_json(folder / RESULT_NAME))
    _, validation = read_scalars(folder)
    accuracy = {domain: result.accuracy.get(domain) for domain in ('source', 'target')}
    return {
        **{name: None if value is None else round(value, 2) for name, value in accuracy.items()},
        **choices(validation),
        'minutes': round(result.seconds / 60, 1),
        'parameters': result.parameters,
        'finished': result.finished,
    }


def choices(validation: Sequence[dict]) -> dict:
    """Compare the validation that a score without labels chooses with the best one.

    Args:
        validation: Records of mmengine by rising ``step``.

    Returns:
        ``chosen``, ``oracle`` in percent and ``steps``; nothing where the target or its score
        wasn't validated.

    Example:
        >>> first = {'step': 1, CHOOSES: 0.2, TARGET: 50.0}
        >>> choices([first, {'step': 2, CHOOSES: 0.1, TARGET: 60.0}])
        {'chosen': 50.0, 'oracle': 60.0, 'steps': [1, 2]}
    """
    records = [record for record in validation if CHOOSES in record and TARGET in record]
    if not records:
        return {}
    chosen = max(records, key=lambda record: record[CHOOSES])
    oracle = max(records, key=lambda record: record[TARGET])
    return {
        'chosen': round(chosen[TARGET], 2),
        'oracle': round(oracle[TARGET], 2),
        'steps': [chosen['step'], oracle['step']],
    }


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Mean of several seeds, with their standard deviation.

    >>> mean_and_spread([70.0, 72.0]), mean_and_spread([70.0]), mean_and_spread([None])
    ('71.0 ± 1.4', '70.0', 'not known')
    """
    if None in values:
        return 'not known'
    mean = f'{statistics.fmean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean
