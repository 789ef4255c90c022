"""A domain's images as a list of names and labels, and their division into splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

TRAIN, VAL, TEST = SPLITS = ('train', 'val', 'test')
#: Shares of validation and test, of what isn't divided yet.
SHARES = {VAL: 0.15, TEST: 0.2}


@dataclass(frozen=True)
class ImageItem:
    """One image.

    Args:
        name: The file's path, or ``split/number`` where a data set holds the image itself.
        label: Its class by name; None if unknown.
        split: 'train', 'val' or 'test'; '' if the data have no splits.
        pixels: The image in RGB or grey, if there is no file. Defaults to None.
        place: In a config's data sets, the name of one and the number there. Defaults to None.
    """

    name: str
    label: str | None = None
    split: str = ''
    pixels: np.ndarray | None = None
    place: tuple[str, int] | None = None


@dataclass(frozen=True)
class DomainImages:
    """All images of one domain.

    Args:
        origin: What they were read from, in words.
        items: The images, in a fixed order.
        classes: Names of all classes, also of those without an image; () if nothing has a label.
        datasets: Name -> mmpretrain data set config that gives the very same images, for
            :attr:`ImageItem.place`; empty for folders and annotation files.
        sizes: Name -> number of images that the data set of that name gives, whether in ``items``
            or not.
        notes: What was left out or read in another way than written, in sentences.
        unlisted: Names of the files among ``items`` that a list for training doesn't take: by
            their extension they are no images.
    """

    origin: str
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...] = ()
    datasets: dict | None = None
    sizes: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    unlisted: frozenset[str] = frozenset()

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any(item.label is not None for item in self.items)

    def split(self, name: str) -> tuple[ImageItem, ...]:
        """Return the images of one split."""
        return tuple(item for item in self.items if item.split == name)

    def with_items(self, items: Iterable[ImageItem]) -> DomainImages:
        """Return the domain with other items."""
        return replace(self, items=tuple(items))


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
    by_label = defaultdict(list)
    for item in free:
        by_label[item.label].append(item)
    places = {}
    for label in sorted(by_label, key=str):
        places.update(_places(by_label[label], lacking, leaders, seed))
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
