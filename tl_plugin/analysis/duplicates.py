"""Copies of an image, exact and near, within and across splits and domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.intake.images import ImageItem

from .scan import ImageRecord

#: Bits of 64 in which the hashes of near duplicates may differ. Pairs are checked by
#: their thumbnails too, so it may be generous.
HASH_DISTANCE = 10
#: Correlation of the thumbnails of near duplicates.
CORRELATION = 0.985
_ROWS = 512


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are copies of each other.

    Args:
        names: Their files.
        domains: The domain of each.
        splits: The split of each, '' where the data have none.
        labels: The class of each, None where it is unknown.
        exact: Whether all pixels are equal.
    """

    names: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str | None, ...]
    exact: bool

    @property
    def leaks(self) -> bool:
        """Whether more than one split of a domain has a copy."""
        return len(set(zip(self.domains, self.splits))) > len(set(self.domains))

    @property
    def crosses_domains(self) -> bool:
        """Whether both domains have a copy."""
        return len(set(self.domains)) > 1

    @property
    def contradicts(self) -> bool:
        """Whether copies have different labels."""
        return len({label for label in self.labels if label is not None}) > 1


def find_duplicates(
    items: Sequence[ImageItem], domains: Sequence[str], records: Sequence[ImageRecord]
) -> list[DuplicateGroup]:
    """Group copies: equal pixels, or pictures that look the same after scaling or compression.

    Near ones have perceptual hashes (pHash; Zauner, "Implementation and Benchmarking of Perceptual
    Image Hash Functions", 2010) at most :data:`HASH_DISTANCE` bits apart and thumbnails that
    correlate by at least :data:`CORRELATION`. Plain images are left out: all of them look alike.

    Args:
        items: All images of all domains.
        domains: The domain of each.
        records: What :func:`tl_plugin.analysis.scan.scan` found, in the same order.

    Returns:
        The groups of two or more, the largest first.
    """
    known = [i for i, r in enumerate(records) if r.readable and 'plain' not in r.faults]
    if len(known) < 2:
        return []
    hashes = np.frombuffer(b''.join(records[i].hash for i in known), np.uint8)
    thumbnails = np.frombuffer(b''.join(records[i].thumbnail for i in known), np.uint8)
    groups = np.unique([records[i].digest for i in known], return_inverse=True)[1]
    groups = _join_similar(
        groups, hashes.reshape(len(known), -1), thumbnails.reshape(len(known), -1)
    )
    order = np.argsort(groups, kind='stable')
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    found = []
    for members in np.split(order, borders):
        if len(members) > 1:
            which = [known[member] for member in members]
            found.append(
                DuplicateGroup(
                    names=tuple(items[i].name for i in which),
                    domains=tuple(domains[i] for i in which),
                    splits=tuple(items[i].split for i in which),
                    labels=tuple(items[i].label for i in which),
                    exact=len({records[i].digest for i in which}) == 1,
                )
            )
    return sorted(found, key=lambda group: -len(group.names))


def _join_similar(groups: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Join the groups of images that look alike; compares all with all, some rows at a time.

    Args:
        groups: Number of each image's group, ``(N,)``.
        hashes: ``(N, 8)``.
        thumbnails: ``(N, pixels)``.

    Returns:
        New numbers, ``(N,)``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(groups)
    # With bits as +1 and -1, a product of matrices counts equal bits minus different ones.
    bits = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
    threshold = bits.shape[1] - 2 * HASH_DISTANCE
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        similar = bits[rows] @ bits[start:].T >= threshold
        similar &= pixels[rows] @ pixels[start:].T >= CORRELATION
        # At once, since the pairs of all rows may be more than fit into memory.
        first, second = (groups[index + start] for index in np.nonzero(similar))
        graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
        groups = connected_components(graph, directed=False)[1][groups]
    return groups
