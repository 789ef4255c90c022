"""The images and labels of both domains in one training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Union

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor

from tl_plugin.datasets.image_numbers import ImageWeights
from tl_plugin.stack.protocol import SOURCE, TARGET

TARGET_STRONG = 'target_strong'

Rows = Union[slice, list]


class JointBatch(Sequence):
    """The data samples of a joint batch, and the rows of each domain in it.

    :class:`DomainDataPreprocessor` builds it once a step and passes it on as ``data_samples``. It
    is no list, since ``DistributedDataParallel`` replaces lists by plain ones on its way to a GPU.

    Args:
        samples: One per image, those of a domain consecutive.
        rows: Domain -> its rows: 'source', 'target' and, of a second, strongly augmented view of
            the target images, 'target_strong'. An ordinary batch is all 'source'.
    """

    def __init__(self, samples: Sequence[DataSample], rows: Mapping[str, slice]) -> None:
        self.samples = samples
        self.rows = dict(rows)

    @classmethod
    def of(cls, samples: Sequence[DataSample]) -> JointBatch:
        """Build a joint batch from data samples, by the ``domain`` of each.

        Args:
            samples: Those of a joint batch, of an ordinary batch, or a joint batch.
        """
        if isinstance(samples, JointBatch):
            return samples
        domains = [vars(sample).get('domain', SOURCE) for sample in samples]  # get() is slow
        return cls(
            samples,
            consecutive_rows({name: domains.count(name) for name in dict.fromkeys(domains)}),
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    def rows_of(self, domain: str) -> slice:
        """Return the rows of a domain, an empty slice where it isn't in the batch."""
        return self.rows.get(domain, slice(0, 0))

    @cached_property
    def labelled(self) -> Rows:
        """Rows of the classification loss: the source's and the target's labelled ones."""
        source, target = self.rows_of(SOURCE), self.rows_of(TARGET)
        few = [row for row in range(target.start, target.stop) if 'gt_label' in self.samples[row]]
        return [*range(source.start, source.stop), *few] if few else source

    @cached_property
    def labels(self) -> Tensor | None:
        """Class index of each image, (N,), on the labels' device; -1 where there is none.

        None where images have no single label: mixed images, or several classes per image.
        """
        found = [sample.gt_label if 'gt_label' in sample else None for sample in self.samples]
        mixed = any('gt_score' in sample for sample in self.samples)
        if mixed or any(label is not None and label.numel() != 1 for label in found):
            return None
        device = next((label.device for label in found if label is not None), None)
        unlabelled = torch.full((1,), -1, dtype=torch.long, device=device)
        parts = [unlabelled if label is None else label.view(1) for label in found]
        return torch.cat(parts) if parts else unlabelled[:0]

    @cached_property
    def source_numbers(self) -> list[int] | None:
        """Which of several sources each source image is from; None where the data don't say."""
        found = [sample.get('source_index') for sample in self.samples[self.rows_of(SOURCE)]]
        return found if found and None not in found else None

    def labelled_samples(self) -> list[DataSample]:
        """Return the samples of the labelled rows, with one kind of label.

        Where source labels are mixed, the others are converted to soft labels, too.
        """
        rows = self.labelled
        picked = self.samples[rows] if isinstance(rows, slice) else [self.samples[r] for r in rows]
        if not picked or 'gt_score' not in picked[0]:
            return picked
        num_classes = picked[0].gt_score.numel()
        return [
            sample if 'gt_score' in sample else _softened(sample, num_classes) for sample in picked
        ]

    def source_weights(self, class_weights: Tensor | None) -> Tensor | None:
        """Return weights of the source images by class.

        Args:
            class_weights: One per class, (K,); None for equal ones.

        Returns:
            One weight per source image, for a mixed image the mean over its classes; None for equal
            ones.
        """
        samples = self.samples[self.rows_of(SOURCE)]
        if class_weights is None:
            return None
        if not samples:
            return class_weights[:0]
        if 'gt_score' in samples[0]:
            return torch.stack([sample.gt_score for sample in samples]).to(class_weights) @ (
                class_weights
            )
        labels = torch.cat([sample.gt_label for sample in samples])
        return class_weights.index_select(0, labels.to(class_weights.device))

    def labelled_weights(
        self, class_weights: Tensor | None, image_weights: ImageWeights | None = None
    ) -> Tensor | None:
        """Return weights of the labelled images; the few labelled target images count 1 each.

        Args:
            class_weights: As in :meth:`source_weights`.
            image_weights: Of the source images; None for equal ones. Defaults to None.
        """
        weights = self.source_weights(class_weights)
        if image_weights is not None:
            own = torch.tensor(image_weights.of(self.samples[self.rows_of(SOURCE)]))
            device = self.samples[0].gt_label.device if weights is None else weights.device
            own = own.to(device, non_blocking=True)
            weights = own if weights is None else own * weights
        if weights is None or isinstance(self.labelled, slice):
            return weights
        return torch.cat([weights, weights.new_ones(len(self.labelled) - len(weights))])

    @property
    def labelled_groups(self) -> list[int]:
        """Number of the source of each labelled image; -1 for the target."""
        source = self.rows_of(SOURCE)
        numbers = self.source_numbers or [0] * (source.stop - source.start)
        few = 0 if isinstance(self.labelled, slice) else len(self.labelled) - len(numbers)
        return [*numbers, *[-1] * few]


def consecutive_rows(counts: Mapping[str, int]) -> dict[str, slice]:
    """Assign each domain its rows, one after the other.

    Args:
        counts: Domain -> number of its images.

    Example:
        >>> consecutive_rows({'source': 4, 'target': 3})
        {'source': slice(0, 4, None), 'target': slice(4, 7, None)}
    """
    rows, start = {}, 0
    for name, count in counts.items():
        rows[name] = slice(start, start + count)
        start += count
    return rows


def _softened(sample: DataSample, num_classes: int) -> DataSample:
    score = F.one_hot(sample.gt_label[0], num_classes).float()
    return DataSample(metainfo=sample.metainfo).set_gt_score(score)
