"""What a joint batch says of its images: domain, label, source, weight."""

from __future__ import annotations

from typing import Union

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor

from .data_preprocessor import SOURCE, TARGET

Rows = Union[slice, list]


def domain_rows(samples: list[DataSample]) -> dict[str, slice]:
    """Where each domain stands in a batch; an ordinary batch is all source."""
    if getattr(samples, 'all_source', False):  # a batch that knows it by itself
        return {SOURCE: slice(0, len(samples))}
    domains = [vars(sample).get('domain', SOURCE) for sample in samples]  # get() is slow
    rows, start = {}, 0
    for name in dict.fromkeys(domains):
        rows[name] = slice(start, start + domains.count(name))
        start = rows[name].stop
    return rows


def labelled_rows(samples: list[DataSample], rows: dict[str, slice]) -> Rows:
    """Which images the classification loss sees: the source's, and the target's few labelled."""
    source, target = rows.get(SOURCE, slice(0, 0)), rows.get(TARGET, slice(0, 0))
    few = [row for row in range(target.start, target.stop) if 'gt_label' in samples[row]]
    return [*range(source.start, source.stop), *few] if few else source


def labelled_samples(samples: list[DataSample], rows: Rows) -> list[DataSample]:
    """Their samples, with one kind of label: mixed source labels make the others soft, too."""
    picked = samples[rows] if isinstance(rows, slice) else [samples[row] for row in rows]
    if not picked or 'gt_score' not in picked[0]:
        return picked
    num_classes = picked[0].gt_score.numel()
    return [
        sample if 'gt_score' in sample else _softened(sample, num_classes) for sample in picked
    ]


def _softened(sample: DataSample, num_classes: int) -> DataSample:
    score = F.one_hot(sample.gt_label[0], num_classes).float()
    return DataSample(metainfo=sample.metainfo).set_gt_score(score)


def labels_of(samples: list[DataSample], device: torch.device) -> Tensor | None:
    """Class indices, -1 where there is none; None where images are mixed."""
    if any('gt_score' in sample for sample in samples):
        return None  # mixed images have no single label
    labels = [sample.gt_label[:1] if 'gt_label' in sample else None for sample in samples]
    unlabelled = torch.full((1,), -1, dtype=torch.long, device=device)
    found = [unlabelled if label is None else label.to(device) for label in labels]
    return torch.cat(found) if found else unlabelled[:0]


def sources_of(
    samples: list[DataSample], num_sources: int | None, device: torch.device
) -> Tensor | None:
    """Which of several sources each image is from; None where nobody says.

    Args:
        samples: Source images.
        num_sources: How many sources the alignments know, None if that doesn't matter to them.
        device: Of the result.

    Raises:
        ValueError: If an alignment knows several sources and the data don't tell them apart, or
            tell more.
    """
    found = [sample.get('source_index') for sample in samples]
    known = [index for index in found if index is not None]
    if num_sources is not None and len(known) < len(found):
        raise ValueError(
            f'an alignment has num_sources={num_sources}, but source images do not say which of '
            "them they are from: set train_dataloader.dataset = dict(type='SeveralSources', "
            'datasets=[...])'
        )
    if num_sources is not None and known and max(known) >= num_sources:
        raise ValueError(
            f'an alignment has num_sources={num_sources}, but the data have source number '
            f'{max(known)}, counted from 0: set num_sources to the length of '
            'train_dataloader.dataset.datasets'
        )
    if not known or len(known) < len(found):
        return None
    return torch.tensor(found, device=device)


def weights_of(samples: list[DataSample], class_weights: Tensor) -> Tensor:
    """The weight of each labelled source image by its class, (N,); others weigh 1."""
    weights = []
    for sample in samples:
        if sample.get('domain', SOURCE) != SOURCE:
            weights.append(class_weights.new_ones(()))
        elif 'gt_score' in sample:
            weights.append((sample.gt_score.to(class_weights) * class_weights).sum())
        else:
            weights.append(class_weights[sample.gt_label[0]])
    return torch.stack(weights) if weights else class_weights[:0]
