"""Prepare source and target for training: common classes, splits, the few target labels."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from tl_plugin.datasets.class_names import (
    canonical,
    closest_names,
    describe_matches,
    folded,
    likely_matches,
)
from tl_plugin.stack.messages import short_list

from .any_data import without_labels
from .images import (
    SHARES,
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    DomainImages,
    ImageItem,
    assign_splits,
    sample_per_class,
)

_DIGIT = re.compile(r'\d')


@dataclass(frozen=True)
class PreparedData:
    """Source and target, ready to write a config from.

    Args:
        source: Divided; all labelled with one of ``classes``.
        target: Divided; labels by name, None where there is none.
        few: Target images of the training split whose labels may be trained on.
        classes: The classes of the model, which are the source's.
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
        target_labels: Which target labels may be trained on: a number of each class, or a labelled
            list of images, of which those of the training split are used. Defaults to None, no
            labels.
        leave_out: Names of images to leave out, such as unreadable ones.
        copies: Groups of names that get the same split, see
            :func:`tl_plugin.intake.images.assign_splits`.
        seed: Seed of the division and of the choice of labels. Defaults to 0.

    Raises:
        ValueError: If the source has no labels, the classes of the domains don't fit together (see
            :func:`match_classes`), or a domain has too few images to be divided.
    """
    notes = [*source.notes, *target.notes]
    copies = list(copies)

    def kept(domain: DomainImages) -> list[ImageItem]:
        gone = {*leave_out, *domain.unlisted}
        return [item for item in domain.items if item.name not in gone]

    labelled = [item for item in kept(source) if item.label is not None]
    if not labelled:
        raise ValueError(
            f'the source {source.origin} has no labels: give class folders, or a label column '
            f'in its annotation file{"".join(f". {note}" for note in source.notes)}'
        )
    dropped = len(kept(source)) - len(labelled)
    if dropped:
        notes.append(f'{dropped} source images without a label are left out.')
    classes = source.classes
    notes += _one_class(source)
    if isinstance(target_labels, DomainImages):
        notes += [note for note in target_labels.notes if note not in notes]
        known = len(target.items)
        target = _with_labels(target, target_labels)
        if len(target.items) > known:
            notes.append(
                f'{len(target.items) - known} images of {target_labels.origin} are not among those '
                'of the target and are added to them.'
            )
    target, found = match_classes(source, target.with_items(kept(target)))
    source = source.with_items(assign_splits(labelled, copies, seed))
    target = target.with_items(assign_splits(target.items, copies, seed))
    _check_divided('source', source)
    _check_divided('target', target)
    few = _trainable(target.items, target_labels, classes, seed)
    if isinstance(target_labels, int):
        counts = Counter(item.label for item in few)
        short = [f'{name} ({counts[name]})' for name in classes if counts[name] < target_labels]
        if short:
            notes.append(
                f'There are fewer than {target_labels} labelled target images to train on of '
                f'{short_list(short)}.'
            )
    notes += [*found, *_missing_classes(source, target, classes)]
    return PreparedData(source, target, tuple(few), classes, tuple(dict.fromkeys(notes)))


def prepare_target(
    target: DomainImages, classes: Sequence[str], origin: str, seed: int = 0
) -> tuple[DomainImages, list[str]]:
    """Divide a target, and compare its classes with those of a trained model.

    Args:
        target: The field domain. Its labels serve to measure alone.
        classes: Of the model.
        origin: Where these come from, in words, for messages.
        seed: Seed of the division. Defaults to 0.

    Returns:
        The target, divided, and notes on it.

    Raises:
        ValueError: If the classes don't fit together, see :func:`match_classes`, or there are too
            few images to be divided.
    """
    known = DomainImages(origin, (), tuple(classes))
    kept = [item for item in target.items if item.name not in target.unlisted]
    found, notes = match_classes(known, target.with_items(kept))
    found = found.with_items(assign_splits(found.items, seed=seed))
    _check_divided('target', found)
    return found, [*target.notes, *notes]


def match_classes(source: DomainImages, target: DomainImages) -> tuple[DomainImages, list[str]]:
    """Compare the target's classes with the source's by name.

    Names in another Unicode form are the same name. Folders that share no name with the source and
    are called by dates or numbers are no classes, and the target is taken as unlabelled.

    Args:
        source: The labelled domain.
        target: The field domain.

    Returns:
        The target, with the source's names where only their form differed, and notes.

    Raises:
        ValueError: If a name differs from one of the source in case, white space, ``_`` or ``-``
            alone, or there is no class in common.
    """
    classes, notes = source.classes, _similar_names(source.classes)
    forms = {canonical(name): name for name in classes}
    renamed = {
        item.label: forms[canonical(item.label)]
        for item in target.items
        if item.label is not None and item.label not in classes and canonical(item.label) in forms
    }
    if renamed:
        notes.append(f"Of the target's class names, {describe_matches(renamed)}: taken as one.")
        target = target.with_items(
            replace(item, label=renamed.get(item.label, item.label)) for item in target.items
        )
    counts = Counter(item.label for item in target.items if item.label is not None)
    if not counts:
        return target, notes
    unknown, missing = sorted(set(counts) - set(classes)), sorted(set(classes) - set(counts))
    pairs = likely_matches(unknown, classes)
    if pairs:
        renaming = ', '.join(f'{name!a} to {other!a}' for name, other in pairs.items())
        raise ValueError(
            f"the target's class names differ from the source's in their spelling: "
            f'{describe_matches(pairs)}. Classes are compared by name: rename the folders or '
            f'labels of one domain, {renaming}'
        )
    if len(unknown) == len(counts):
        # Dates, cameras, batches and identifiers hold a digit.
        are_classes = _are_indices(unknown, classes) or not all(map(_DIGIT.search, unknown))
        if are_classes or not os.path.isdir(target.origin):
            raise ValueError(_nothing_in_common(unknown, classes))
        notes.append(
            f"The target's folders, {short_list(unknown)}, are none of the source's classes, "
            f'{short_list(classes)}, and named like dates, numbers or cameras: the target is taken '
            'as unlabelled. If they are classes, rename them as the source calls them.'
        )
        return without_labels(target), notes
    if unknown or missing:
        known = sorted(set(counts) & set(classes))
        notes += [
            *_differing_classes(unknown, missing),
            f'Accuracy on the target is measured over {", ".join(known)} alone: '
            f'{sum(counts[name] for name in known)} of its {len(target.items)} images.',
        ]
    return target, notes


def _differing_classes(unknown: Sequence[str], missing: Sequence[str]) -> list[str]:
    """Note the classes that the target alone has, and those that it lacks."""
    notes = []
    if unknown:
        near = closest_names(unknown, missing)
        alike = ', '.join(f'{name!r} may be {other!r}' for name, other in near.items())
        hint = f' {alike}: if so, rename it.' if near else ''
        notes.append(
            f'The target has classes that the source does not know: {", ".join(unknown)}. Their '
            f'images count as unlabelled.{hint}'
        )
    if missing:
        notes.append(f'The target has no image of {", ".join(missing)}.')
    return notes


def _check_divided(name: str, domain: DomainImages) -> None:
    """Refuse a domain that has an empty split, and say how many images are needed."""
    empty = [split for split in SPLITS if not domain.split(split)]
    if not empty:
        return
    counts = Counter(item.label for item in domain.items)
    least = next(n for n in itertools.count(1) if all(round(s * n) for s in SHARES.values()))
    smallest, number = min(counts.items(), key=lambda pair: (pair[1], str(pair[0])))
    needed = f'at least {least} images'
    if counts.keys() - {None}:
        needed += f' of each class (of {smallest!r} there is {number})'
    fix = f'give {needed}, or train, val and test folders of your own'
    if name == 'target' and domain.labelled and len(domain.items) >= least:
        fix += ', or take the target as unlabelled (--unlabelled)'
    raise ValueError(
        f'the {name} has too few images, {len(domain.items)}, to hold some out: none is left for '
        f'{" and ".join(empty)}. To be divided into {", ".join(SPLITS)}, {fix}'
    )


def _missing_classes(
    source: DomainImages, target: DomainImages, classes: Sequence[str]
) -> list[str]:
    """Note the classes that a split has no image of."""
    notes = []
    for split in SPLITS:
        there = {item.label for item in source.split(split)}
        lacking = [name for name in classes if name not in there]
        if lacking:
            notes.append(f"The source's {split} images show no {short_list(lacking)}.")
    if target.labelled:
        for split in (VAL, TEST):
            if not any(item.label in classes for item in target.split(split)):
                notes.append(
                    f"The target's {split} images have no label that the source knows: they are "
                    'measured without labels.'
                )
    return notes


def _one_class(source: DomainImages) -> list[str]:
    """Note a single class, and folders in its folder, which may be the classes."""
    if len(source.classes) != 1:
        return []
    (name,) = source.classes
    note = f'The source has one class alone, {name!r}: each prediction is right, whatever the model'
    inner = {os.path.basename(os.path.dirname(i.name)) for i in source.items if i.label == name}
    if not os.path.isdir(source.origin) or len(inner) < 2:
        return [f'{note}.']
    return [
        f'{note}. There are the folders {short_list(sorted(inner))} in it: if these are the '
        f'classes, give {os.path.join(source.origin, name)}.'
    ]


def _similar_names(classes: Sequence[str]) -> list[str]:
    groups = defaultdict(list)
    for name in classes:
        groups[folded(name)].append(name)
    return [
        f'The source has {" and ".join(map(ascii, names))} as {len(names)} classes: if they are '
        'one, rename them.'
        for names in groups.values()
        if len(names) > 1
    ]


def _are_indices(names: Collection[str], classes: Sequence[str]) -> bool:
    """Return whether names are numbers that may stand for the classes in their order."""
    return all(name.isdecimal() and int(name) < len(classes) for name in names)


def _nothing_in_common(unknown: Sequence[str], classes: Sequence[str]) -> str:
    near = list(closest_names(unknown, classes).items())
    hint = ', '.join(f'{name!r} and {other!r}' for name, other in near[:3])
    if _are_indices(unknown, classes):
        order = ', '.join(f'{number} is {name}' for number, name in list(enumerate(classes))[:8])
        hint = f" If these number the source's classes in their order, write names ({order})."
    elif near:
        hint = f' Are {hint} the same?'
    return (
        f'source and target have no class in common: the source has {short_list(classes)}, the '
        f"target {short_list(unknown)}. Classes are compared by name.{hint} If the target's are "
        'no classes (dates, cameras, places), take it as unlabelled: --unlabelled'
    )


def _with_labels(target: DomainImages, labelled: DomainImages) -> DomainImages:
    """Label images from another list; add images that only that list has."""
    given = {os.path.realpath(item.name): item for item in labelled.items}
    found = []
    for item in target.items:
        other = given.pop(os.path.realpath(item.name), None)
        known = other is not None and other.label is not None
        found.append(replace(item, label=other.label) if known else item)
    if given and (target.datasets or labelled.datasets):
        raise ValueError(
            f'{len(given)} labelled target images of {labelled.origin} are not among those of '
            f"{target.origin}, and a config's data sets can't be joined with others: give both as "
            'folders or annotation files'
        )
    unlisted = target.unlisted | labelled.unlisted
    return replace(target, items=(*found, *given.values()), unlisted=unlisted)


def _trainable(
    items: Sequence[ImageItem],
    target_labels: DomainImages | int | None,
    classes: Collection[str],
    seed: int,
) -> list[ImageItem]:
    if target_labels is None:
        return []
    known = [item for item in items if item.split == TRAIN and item.label in classes]
    if isinstance(target_labels, DomainImages) and not target_labels.labelled:
        raise ValueError(
            f'none of the {len(target_labels.items)} images of {target_labels.origin} has a label '
            'to train on: fill in some of its column label, of predictions.csv say; what was '
            'predicted is never taken for a label'
        )
    if isinstance(target_labels, int):
        known = sample_per_class(known, target_labels, seed)
    else:
        allowed = {os.path.realpath(i.name) for i in target_labels.items if i.label is not None}
        known = [item for item in known if os.path.realpath(item.name) in allowed]
    if not known:
        raise ValueError(
            'no labelled target image is left to train on: check --target-labels against the '
            f'classes {", ".join(classes)}'
        )
    return known
