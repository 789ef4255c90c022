"""Compare the classes of data sets, model and checkpoint, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import MultiLabelClsHead, MultiTaskHead

from tl_plugin.datasets.bad_data import UNLABELLED, describe_data, differing_names
from tl_plugin.datasets.class_names import describe_matches, likely_matches
from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import unwrap

_FIX = (
    'Labels are numbers, so that both need the same classes in the same order: give both data sets '
    'metainfo=dict(classes=[...]), an empty folder for a class without images, and '
    'with_label=False where there are no labels'
)


def dataset_classes(dataset: Any) -> Sequence[str]:
    """Return the names of a data set's classes, () where it has none.

    Args:
        dataset: A data set, perhaps one that wraps others.

    Raises:
        ValueError: If labels were numbered by folders in another order than the names stand in, or
            data sets that are joined have different classes.
    """
    (first, classes), *others = [(part, _own_names(part)) for part in inner_datasets(dataset)]
    for other, names in others:
        check_classes(describe_data(first), classes, describe_data(other), names)
        first, classes = (first, classes) if classes else (other, names)
    return classes


def _own_names(dataset: Any) -> Sequence[str]:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    folders = list(getattr(dataset, 'folder_to_idx', None) or ())
    if folders and set(folders) == set(classes) and folders != list(classes):
        raise ValueError(
            f'{describe_data(dataset)} numbers its labels by its folders in alphabetical order, '
            f'but its metainfo has the classes in another: '
            f'{differing_names("the folders", folders, "metainfo", list(classes))}. List them '
            'alphabetically'
        )
    return classes


def check_classes(one: str, names: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Refuse two sets of classes that differ in names or order.

    Args:
        one: Whose the first are, for the message: 'train_dataloader'.
        names: The first names; () where none are known.
        other: Whose the second are.
        others: The second names.

    Raises:
        ValueError: If both are known and differ; says which are missing on which side.
    """
    if names and others and list(names) != list(others):
        alike = likely_matches(others, names)
        hint = f' Rename what is one class: {describe_matches(alike)}.' if alike else ''
        raise ValueError(
            f'{one} and {other} have different classes: '
            f'{differing_names(one, list(names), other, list(others))}.{hint} {_FIX}'
        )


def check_target_classes(names: Sequence[str], others: Sequence[str], key: str) -> None:
    """Refuse a target whose class names are none of the source's: its folders are no classes.

    Args:
        names: The source's classes; () where none are known.
        others: The target's, likewise.
        key: Where the config sets the target's data set, with which the advice begins.

    Raises:
        ValueError: If both are known and share no name, also not in another spelling.
    """
    if names and others and not set(names) & set(others) and not likely_matches(others, names):
        raise ValueError(
            f"the target's folders are called {short_list(others)}, none of them as one of the "
            f"source's classes, {short_list(names)}: {UNLABELLED} --cfg-options "
            f'{key}.with_label=False'
        )


def check_width(name: str, classes: Sequence[str], model: Any) -> None:
    """Refuse a data set that names more or fewer classes than the head has.

    Args:
        name: What the data are called, for the message: 'source'.
        classes: Their classes; () where none are known.
        model: The model.

    Raises:
        ValueError: If the numbers differ.
    """
    width = num_classes(model)
    if classes and width is not None and len(classes) != width:
        fix = f'set model.head.num_classes={len(classes)}'
        if name == 'target':  # the head is the source's
            fix = f'{UNLABELLED} dataset.with_label=False'
        raise ValueError(
            f'the {name} data has {len(classes)} classes ({short_list(classes)}), the head '
            f'{width}: {fix}, or point to data with the classes of the head'
        )


def check_one_hot(model: Any, option: str) -> None:
    """Refuse a data preprocessor that makes labels one-hot for other classes than the head's.

    Mixup and CutMix do so, and the loss would then fail on tensors of different shapes.

    Args:
        model: The model.
        option: Where the number is set, for the message: 'data_preprocessor.num_classes'.

    Raises:
        ValueError: If the numbers differ.
    """
    width = num_classes(model)
    preprocessor = getattr(unwrap(model), 'data_preprocessor', None)
    given = getattr(preprocessor, 'num_classes', None)
    if getattr(preprocessor, 'to_onehot', False) and None not in (width, given) and given != width:
        raise ValueError(
            f'batch augmentations (or to_onehot=True) make labels one-hot of {option}={given}, and '
            f'the head has {width} classes: set {option}={width}'
        )


def num_classes(model: Any) -> int | None:
    """Return the number of classes of a classifier; None where it doesn't say.

    Args:
        model: mmpretrain's classifier, also around a whole timm model, with or without its wrapper.
    """
    model = unwrap(model)
    for owner in (getattr(model, 'head', None), getattr(model, 'model', None)):
        width = getattr(owner, 'num_classes', None)
        if isinstance(width, int) and width > 0:
            return width
    return None


def has_several_labels(head: Any) -> bool:
    """Say whether a head scores each class by itself, for images of several classes.

    Args:
        head: A classifier's head.
    """
    return isinstance(head, (MultiLabelClsHead, MultiTaskHead))
