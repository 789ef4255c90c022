"""Source and target made ready for training: common classes, splits, the few target labels."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from tl_plugin.datasets.images import TRAIN, DomainImages, ImageItem
from tl_plugin.datasets.splits import divide, few_a_class


@dataclass(frozen=True)
class PreparedData:
    """What a config is written from.

    Args:
        source: Divided; all labelled with one of ``classes``.
        target: Divided; labels by name, None where there is none.
        few: Target images of the training split whose labels may be trained on.
        classes: What the model tells apart: the source's classes.
        notes: What was left out and why, in sentences.
    """

    source: DomainImages
    target: DomainImages
    few: tuple[ImageItem, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def prepare_data(
    source: DomainImages,
    target: DomainImages,
    target_labels: DomainImages | int | None = None,
    leave_out: Collection[str] = (),
    copies: Iterable[Sequence[str]] = (),
    seed: int = 0,
) -> PreparedData:
    """Divide both domains and compare their classes by name.

    Args:
        source: The labelled domain.
        target: The field domain. Its own labels serve to measure, not to train.
        target_labels: Which target labels may be trained on: so many of each class, or a labelled
            list of images, of which the training split takes its share. None: no labels.
        leave_out: Names of images that can't be read.
        copies: Groups of names that go the same way, see :func:`tl_plugin.datasets.splits.divide`.
        seed: Of the division and the choice. Defaults to 0.

    Raises:
        ValueError: If the source has no labels, or the domains have no class in common.
    """
    notes: list[str] = []
    copies = list(copies)
    labelled = [item for item in _kept(source, leave_out) if item.label is not None]
    if not labelled:
        raise ValueError(
            f'the source {source.origin} has no labels: give class folders, or a label column '
            'in its annotation file'
        )
    dropped = len(_kept(source, leave_out)) - len(labelled)
    if dropped:
        notes.append(f'{dropped} source images without a label are left out.')
    classes = source.classes
    items = list(_kept(target, leave_out))
    if isinstance(target_labels, DomainImages):
        items = _with_labels(items, [i for i in target_labels.items if i.name not in leave_out])
    _compare(classes, {i.label for i in items if i.label is not None}, notes)
    divided = divide(items, copies, seed)
    return PreparedData(
        source=replace(source, items=tuple(divide(labelled, copies, seed))),
        target=replace(target, items=tuple(divided)),
        few=tuple(_few(divided, target_labels, classes, seed)),
        classes=classes,
        notes=tuple(notes),
    )


def _kept(domain: DomainImages, leave_out: Collection[str]) -> list[ImageItem]:
    return [item for item in domain.items if item.name not in leave_out]


def _with_labels(items: list[ImageItem], labelled: list[ImageItem]) -> list[ImageItem]:
    """Give images the labels of another list; images that only that list has are added."""
    given = {os.path.realpath(item.name): item for item in labelled}
    found = []
    for item in items:
        other = given.pop(os.path.realpath(item.name), None)
        found.append(item if other is None else replace(item, label=other.label))
    return found + list(given.values())


def _compare(classes: Collection[str], found: set[str], notes: list[str]) -> None:
    if not found:
        return
    unknown, missing = sorted(found - set(classes)), sorted(set(classes) - found)
    if len(unknown) == len(found):
        by_lower = {name.lower(): name for name in classes}
        near = [
            f'{name!r} and {by_lower[match[0]]!r}'
            for name in unknown
            if (match := difflib.get_close_matches(name.lower(), by_lower, 1))
        ]
        hint = f' Are {", ".join(near[:3])} the same?' if near else ''
        raise ValueError(
            f'source and target have no class in common: the source has {", ".join(classes)}, the '
            f'target {", ".join(unknown)}. Classes are compared by name.{hint}'
        )
    if unknown:
        notes.append(
            f'The target has classes that the source does not know: {", ".join(unknown)}. Their '
            'images count as unlabelled.'
        )
    if missing:
        notes.append(f'The target has no image of {", ".join(missing)}.')


def _few(
    items: Sequence[ImageItem],
    target_labels: DomainImages | int | None,
    classes: Collection[str],
    seed: int,
) -> list[ImageItem]:
    if target_labels is None:
        return []
    known = [item for item in items if item.split == TRAIN and item.label in classes]
    if isinstance(target_labels, int):
        known = few_a_class(known, target_labels, seed)
    else:
        allowed = {os.path.realpath(i.name) for i in target_labels.items if i.label is not None}
        known = [item for item in known if os.path.realpath(item.name) in allowed]
    if not known:
        raise ValueError(
            'no labelled target image is left to train on: check --target-labels against the '
            f'classes {", ".join(classes)}'
        )
    return known
