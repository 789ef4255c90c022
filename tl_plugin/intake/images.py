"""A domain's images as a list of names and labels, whatever they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAIN, VAL, TEST = SPLITS = ('train', 'val', 'test')


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
        """The images of one split."""
        return tuple(item for item in self.items if item.split == name)
