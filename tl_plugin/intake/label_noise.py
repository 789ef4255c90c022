"""Wrong labels to try strategies with: symmetric, in pairs, or by what an image shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tl_plugin.reliability.files import write_text

from .images import ImageItem

KINDS = ('symmetric', 'pairs', 'instance')
#: Spread of the images' own rates in instance-dependent noise.
RATE_DEVIATION = 0.1
#: Ends the name of the file that holds the true labels.
TRUTH_SUFFIX = '.truth.csv'


def noisy_labels(
    items: Sequence[ImageItem],
    rate: float,
    kind: str = 'symmetric',
    features: np.ndarray | None = None,
    seed: int = 0,
) -> list[str | None]:
    """Replace a share of the labels by wrong ones.

    Args:
        items: The images; those without a label stay without.
        rate: Share of wrong labels, in [0, 1).
        kind: ``'symmetric'``: that share of each class gets any other class, all equally likely.
            ``'pairs'``: it gets the next class by name, as if two neighbours were mixed up.
            ``'instance'``: each image has a rate of its own, normal around ``rate``, and a wrong
            class that follows from its features (Xia et al., "Part-dependent Label Noise",
            NeurIPS 2020, arXiv 2006.07836, algorithm 2).
        features: ``(N, D)``, for ``'instance'``. Defaults to None.
        seed: Of the choice. Defaults to 0.

    Returns:
        A label for each image.

    Raises:
        ValueError: If the rate, the kind or the features are none, or there are fewer than two
            classes.

    Example:
        >>> cats = [ImageItem(f'{number}.png', 'cat') for number in range(10)]
        >>> noisy_labels([*cats, ImageItem('a.png', 'dog')], 0.2, 'pairs').count('dog')
        3
    """
    classes = sorted({item.label for item in items if item.label is not None})
    if not 0 <= rate < 1:
        raise ValueError(f'label noise is a share of the images in [0, 1), got {rate}')
    if len(classes) < 2:
        raise ValueError(
            f'wrong labels need two classes, the data have {classes or "no labels"}: give class '
            'folders, or an annotation file with a label column'
        )
    rows = [row for row, item in enumerate(items) if item.label is not None]
    numbers = np.array([classes.index(items[row].label) for row in rows])
    rng = np.random.default_rng(seed)
    if kind == 'instance':
        if features is None or len(features) != len(items):
            raise ValueError(
                f'instance-dependent noise needs features of all {len(items)} images, got '
                f'{None if features is None else len(features)}'
            )
        wrong = _by_instance(numbers, len(classes), rate, features[rows], rng)
    elif kind in KINDS:
        wrong = _by_class(numbers, len(classes), rate, kind == 'pairs', rng)
    else:
        raise ValueError(f'the kind of label noise is {kind!r}, expected one of {", ".join(KINDS)}')
    found: list[str | None] = [None] * len(items)
    for row, number in zip(rows, wrong):
        found[row] = classes[number]
    return found


def _by_class(
    numbers: np.ndarray, classes: int, rate: float, next_one: bool, rng: np.random.Generator
) -> np.ndarray:
    wrong = numbers.copy()
    for number in range(classes):
        members = rng.permutation(np.flatnonzero(numbers == number))
        chosen = members[: round(rate * len(members))]
        steps = 1 if next_one else rng.integers(1, classes, len(chosen))
        wrong[chosen] = (number + steps) % classes
    return wrong


def _by_instance(
    numbers: np.ndarray, classes: int, rate: float, features: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    from scipy.special import softmax
    from scipy.stats import truncnorm

    deviation = RATE_DEVIATION if rate else 1e-12
    ends = (0 - rate) / deviation, (1 - rate) / deviation
    rates = truncnorm.rvs(*ends, rate, deviation, size=len(numbers), random_state=rng)
    features = features.reshape(len(features), -1).astype(np.float64)
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    wrong = numbers.copy()
    for number in range(classes):
        members = np.flatnonzero(numbers == number)
        scores = features[members] @ rng.standard_normal((features.shape[1], classes))
        scores[:, number] = -np.inf
        chances = softmax(scores, axis=1) * rates[members, None]
        chances[:, number] = 1 - rates[members]
        drawn = rng.random((len(members), 1)) > chances.cumsum(axis=1)
        wrong[members] = np.minimum(drawn.sum(axis=1), classes - 1)
    return wrong


def write_truth(folder: Path, names: Sequence[str], items: Sequence[ImageItem]) -> Path:
    """Write the true labels beside a folder, where nothing looks for them.

    Args:
        folder: The folder whose labels were changed.
        names: Its files, relative to it: ``CLASS/NAME``, with the changed class.
        items: The images, with their true labels, in the same order.

    Returns:
        The file's path; its columns are ``file``, ``given`` and ``true``.
    """
    text = io.StringIO(newline='')
    table = csv.writer(text, lineterminator='\n')
    table.writerow(('file', 'given', 'true'))
    for name, item in zip(names, items):
        given = Path(name).parent
        table.writerow((name, '' if given == Path('.') else given, item.label or ''))
    path = folder.with_name(folder.name + TRUTH_SUFFIX)
    # Names that are no text are written as they are read.
    write_text(path, text.getvalue().encode('utf-8', 'backslashreplace').decode())
    return path
