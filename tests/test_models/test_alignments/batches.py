"""Small domains and alignments for the tests of this folder."""

from __future__ import annotations

import torch
from mmpretrain.registry import MODELS

from tl_plugin.models.alignments import Alignment, DomainBatch

FEATURES, CLASSES = 6, 3


#: Fields of a DomainBatch that carry gradient.
PARTS = ('features', 'logits', 'strong_logits', 'masked_logits')


#: Fields that carry none.
EXTRAS = ('domains', 'neighbours', 'pseudo_labels', 'teacher_logits')


def extras(batch: DomainBatch) -> dict[str, torch.Tensor]:
    """What of a batch carries no gradient, by field."""
    return {name: getattr(batch, name) for name in EXTRAS if getattr(batch, name) is not None}


def parts(batch: DomainBatch) -> dict[str, torch.Tensor]:
    """What of a batch carries gradient, by field."""
    return {name: getattr(batch, name) for name in PARTS if getattr(batch, name) is not None}


def domain(size: int, labels: bool = True, seed: int = 0, scale: float = 1.0) -> DomainBatch:
    """Random features and logits that take a gradient."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, FEATURES, generator=generator) * scale
    logits = torch.randn(size, CLASSES, generator=generator) * scale
    strong_logits = torch.randn(size, CLASSES, generator=generator) * scale
    masked_logits = torch.randn(size, CLASSES, generator=generator) * scale
    return DomainBatch(
        features=features.requires_grad_(),
        logits=logits.requires_grad_(),
        labels=torch.arange(size) % CLASSES if labels else torch.full((size,), -1),
        strong_logits=strong_logits.requires_grad_(),
        masked_logits=masked_logits.requires_grad_(),
        teacher_logits=torch.randn(size, CLASSES, generator=generator) * scale,
        pseudo_labels=torch.arange(size) % CLASSES,
        domains=torch.arange(size) % 2,
        neighbours=torch.randn(size, 5, CLASSES, generator=generator).softmax(2),
    )


def build(name: str, progress: float = 0.5, **kwargs) -> Alignment:
    """An alignment with weights that depend on nothing but its arguments."""
    torch.manual_seed(0)
    cfg = dict(type=name, in_features=FEATURES, num_classes=CLASSES, **kwargs)
    alignment = MODELS.build(cfg)
    alignment.set_progress(progress)
    return alignment


def numpy_parts(*batches: DomainBatch) -> list:
    """Features and logits of each batch as arrays of doubles."""
    return [
        [part.detach().double().numpy() for part in (batch.features, batch.logits)]
        for batch in batches
    ]


def softmax(logits):
    """In numpy, as a textbook has it."""
    import numpy as np

    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)
