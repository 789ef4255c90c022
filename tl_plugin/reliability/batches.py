"""What a batch holds, whichever loader made it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def parts(batch: Any) -> Iterator[tuple[str, dict]]:
    """The batches of which one is made: itself, or one a domain.

    Args:
        batch: What a train loader yields.

    Yields:
        The domain, or '' where there is only one, and its batch.
    """
    if not isinstance(batch, dict):
        return
    if 'inputs' in batch:
        yield '', batch
        return
    for name, part in batch.items():
        for inner, found in parts(part):
            yield '/'.join(filter(None, (name, inner))), found


def batch_names(batch: Any) -> list[str]:
    """Names the images of a batch: by path, by id, or by their place in it.

    Args:
        batch: What a train loader yields.
    """
    names = []
    for domain, part in parts(batch):
        for place, sample in enumerate(part.get('data_samples') or []):
            prefix = f'{domain}: ' if domain else ''
            names.append(f'{prefix}{sample_name(sample, place)}')
    return names


def sample_name(sample: Any, place: int) -> str:
    """Names one image.

    Args:
        sample: Its ``DataSample``.
        place: Of it in the batch, from 0.
    """
    for key in ('img_path', 'img_id', 'sample_idx'):
        value = sample.get(key, None)
        if value is not None:
            return str(value) if key == 'img_path' else f'image {value}'
    return f'number {place} of the batch'
