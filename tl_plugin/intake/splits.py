"""Divide images into training, validation and test, the same way every time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .images import TEST, TRAIN, VAL, ImageItem

#: Shares of validation and test, of what isn't divided yet.
SHARES = {VAL: 0.15, TEST: 0.2}


def assign_splits(
    items: Sequence[ImageItem], copies: Iterable[Sequence[str]] = (), seed: int = 0
) -> list[ImageItem]:
    """Give every image a split; the three are disjoint and hold every class in proportion.

    Splits that the data define are kept. Missing ones are taken from the training images, or from
    all images where nothing is divided. The split of an image follows from a hash of its name: it
    doesn't depend on the order of the images or on other classes.

    Args:
        items: The images.
        copies: Names of images that are copies of each other: they get the same split, unless the
            data define another one.
        seed: Seed of the division. Defaults to 0.

    Returns:
        The images in their order, each with a split.

    Raises:
        ValueError: If the data have some splits but none for training.

    Example:
        >>> items = [ImageItem(f'{number}.png', 'cat') for number in range(20)]
        >>> sorted(Counter(item.split for item in assign_splits(items)).items())
        [('test', 4), ('train', 13), ('val', 3)]
    """
    given = {item.split for item in items}
    if given - {''} and TRAIN not in given and '' not in given:
        raise ValueError(
            f'the data are divided into {", ".join(sorted(given))} and nothing is left to train '
            'on: add a training split, or give the images undivided'
        )
    free = [item for item in items if item.split in ('', TRAIN)]
    lacking = {split: share for split, share in SHARES.items() if split not in given}
    leaders = {name: group[0] for group in map(sorted, copies) for name in group}
    places = {}
    for label in sorted({item.label for item in free}, key=str):
        members = [item for item in free if item.label == label]
        places.update(_places(members, lacking, leaders, seed))
    return [replace(item, split=places.get(item.name, item.split)) for item in items]


def sample_per_class(items: Sequence[ImageItem], number: int, seed: int = 0) -> list[ImageItem]:
    """Choose some labelled images of each class, the same ones for the same seed.

    Args:
        items: Training images.
        number: Number of images of each class at most.
        seed: Seed of the choice. Defaults to 0.
    """
    return _sample(items, {item.label: number for item in items if item.label}, seed + 1)


def sample_share(items: Sequence[ImageItem], share: float, seed: int = 0) -> list[ImageItem]:
    """Choose a share of each class, the same images for the same seed.

    Args:
        items: The images.
        share: Between 0 and 1.
        seed: Seed of the choice. Defaults to 0.

    Raises:
        ValueError: If the share isn't between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f'a share of the images lies between 0 and 1, got {share}')
    counts = Counter(item.label for item in items)
    return _sample(items, {label: round(share * count) for label, count in counts.items()}, seed)


def _sample(
    items: Sequence[ImageItem], counts: Mapping[str | None, int], seed: int
) -> list[ImageItem]:
    remaining, chosen = dict(counts), set()
    for item in sorted(items, key=lambda item: _hash(item.name, seed)):
        if remaining.get(item.label):
            remaining[item.label] -= 1
            chosen.add(item.name)
    return [item for item in items if item.name in chosen]


def _places(
    members: Sequence[ImageItem], lacking: Mapping[str, float], leaders: Mapping, seed: int
) -> dict[str, str]:
    groups = defaultdict(list)
    for item in members:
        groups[leaders.get(item.name, item.name)].append(item.name)
    quotas = {split: round(share * len(members)) for split, share in lacking.items()}
    places = {}
    for leader in sorted(groups, key=lambda name: _hash(name, seed)):
        split = next((s for s, left in quotas.items() if left >= len(groups[leader])), TRAIN)
        if split != TRAIN:
            quotas[split] -= len(groups[leader])
        places.update(dict.fromkeys(groups[leader], split))
    return places


def _hash(name: str, seed: int) -> tuple[bytes, str]:
    # The last parts of the path: a data set that moves is divided as before.
    tail = '/'.join(str(name).replace('\\', '/').split('/')[-2:])
    return hashlib.sha256(f'{seed}:{tail}'.encode()).digest(), name
