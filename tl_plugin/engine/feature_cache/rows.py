"""Labels of cached images, in the form that heads read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

import torch
from mmpretrain.models import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from tl_plugin.reliability.bad_images import image_name

from .store import FeatureStore

LABEL, SCORE = 'gt_label', 'gt_score'


class CachedSample(DataSample):
    """A ``DataSample`` of a cached image: its labels, and its path for whoever asks."""

    @classmethod
    def of(cls, dataset: Any, index: int, **labels: Tensor) -> CachedSample:
        """Makes one without the checks of fields, which take longer than a training step.

        Args:
            dataset: Where the image is from.
            index: Which one it is.
            **labels: ``gt_label`` and ``gt_score``, or one of the two.
        """
        sample = cls.__new__(cls)
        vars(sample).update(
            labels,
            _data_fields=set(labels),
            _metainfo_fields={'sample_idx'},
            sample_idx=index,
            _dataset=dataset,
        )
        return sample

    def get(self, key: str, default: Any = None) -> Any:
        """As in ``DataSample``; the path is looked up."""
        if key == 'img_path':
            return image_name(self.__dict__['_dataset'], self.__dict__['sample_idx'])
        return self.__dict__.get(key, default)


def labels_of(samples: Sequence[DataSample]) -> tuple[list[Tensor], Tensor | None]:
    """The labels of a batch, to be kept.

    Args:
        samples: What the data preprocessor gives.

    Returns:
        Class indices, (number,) each, and scores, (N, K), if there are some.

    Raises:
        ValueError: If samples hold anything else that a head might need, or no label.
    """
    for sample in samples:
        other = sorted(set(sample.keys()) - {LABEL, SCORE})
        if not isinstance(sample, DataSample) or other:
            raise ValueError(
                f'cached features keep the labels of classification ({LABEL}, {SCORE}), and the '
                f'data samples are {type(sample).__name__} with {", ".join(other) or "others"}: '
                'use feature_extraction, which caches nothing'
            )
    if not all(LABEL in sample or SCORE in sample for sample in samples):
        raise ValueError(
            'an image has no label: features are cached for training with labels, give '
            'train_dataloader.dataset some (with_label=True)'
        )
    none = torch.zeros(0, dtype=torch.long)
    labels = [sample.gt_label.cpu() if LABEL in sample else none for sample in samples]
    if SCORE not in samples[0]:
        return labels, None
    return labels, torch.stack([sample.gt_score for sample in samples])


def check_labels(labels: Sequence[Tensor], num_classes: int | None, names: Sequence[str]) -> None:
    """Makes sure that the head has the classes of some images.

    Args:
        labels: Of each image.
        num_classes: Of the head, None if it doesn't say.
        names: Of each image.

    Raises:
        ValueError: If it hasn't.
    """
    for name, label in zip(names, labels) if isinstance(num_classes, int) else ():
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
            raise ValueError(
                f'label {label.tolist()} of {name} is out of range: the head has {num_classes} '
                f'classes, 0 to {num_classes - 1}. Correct the annotation, or set '
                'model.head.num_classes'
            )


class SourceSamples(list):
    """The samples of a batch, none of which is of a target domain."""

    all_source = True


class JoinedLabels:
    """Gives a classifier's head the labels of a batch in one piece.

    mmpretrain's heads join those of the single images, which takes as long as a third of the step.

    Args:
        model: The unwrapped model. A head that gets at its labels in a way of its own is let be.
    """

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, 'head', None)
        self._head = head if getattr(type(head), '_get_loss', None) is ClsHead._get_loss else None

    @contextmanager
    def given(self, labels: Tensor | None) -> Iterator[None]:
        """A context for one step.

        Args:
            labels: One class an image, (N,), in the order of the batch; None for those of the
                samples.
        """
        if labels is None or self._head is None:
            yield
            return
        joined = [CachedSample.of(None, 0, gt_label=labels)]
        plain = self._head._get_loss

        def get_loss(scores: Tensor, samples: Sequence[DataSample], **options: Any) -> dict:
            whole = len(samples) == len(labels)
            return plain(scores, joined if whole else samples, **options)

        vars(self._head)['_get_loss'] = get_loss
        try:
            yield
        finally:
            del vars(self._head)['_get_loss']


class CachedSamples:
    """The samples of all cached rows, made when they are first asked for.

    Args:
        dataset: Where the images are from; rows are its images, once a view.
        store: With their labels.
        scores: (rows, K), if there are some.
        device: Of the labels.
    """

    #: So many are kept, a few hundred bytes each; those of larger data sets are made each time.
    KEPT = 200_000

    def __init__(
        self, dataset: Any, store: FeatureStore, scores: Tensor | None, device: torch.device
    ) -> None:
        self._dataset, self._count, self._device = dataset, len(dataset), device
        self._labels, self._scores = store.labels.to(device), scores
        self._ends = None if store.lengths is None else store.lengths.cumsum(0).tolist()
        self._known = _Known(self._make)

    def of(self, rows: Sequence[int]) -> list[CachedSample]:
        """Those of some rows."""
        return SourceSamples(map(self._known.__getitem__, rows))

    def labels_of(self, rows: Tensor) -> Tensor | None:
        """The class of each of some rows; None where rows have several, or scores."""
        if self._ends is not None or self._scores is not None:
            return None
        return self._labels.index_select(0, rows.to(self._device))

    def _make(self, row: int) -> CachedSample:
        labels = {}
        start, end = (row, row + 1) if self._ends is None else self._bounds(row)
        if end > start:
            labels[LABEL] = self._labels[start:end]
        if self._scores is not None:
            labels[SCORE] = self._scores[row].to(self._device)
        sample = CachedSample.of(self._dataset, row % self._count, **labels)
        if len(self._known) < self.KEPT:
            self._known[row] = sample
        return sample

    def _bounds(self, row: int) -> tuple[int, int]:
        return self._ends[row - 1] if row else 0, self._ends[row]


class _Known(dict):
    """Samples by row, made where they are missing."""

    def __init__(self, make: Callable[[int], CachedSample]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, row: int) -> CachedSample:
        return self._make(row)
