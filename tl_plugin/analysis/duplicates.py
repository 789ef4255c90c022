"""Copies of an image, exact and near, within and across splits and domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.intake.images import ImageItem

from .scan import ImageRecord

#: Bits of 64 in which the hashes of near duplicates may differ. Proposals of the hash are looked
#: at again, so it may be generous.
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
        """Whether copies lie in more than one split of one domain."""
        return any(
            len({s for d, s in zip(self.domains, self.splits) if d == domain}) > 1
            for domain in set(self.domains)
        )

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
    known = [
        index
        for index, record in enumerate(records)
        if record.readable and 'plain' not in record.faults
    ]
    if len(known) < 2:
        return []
    hashes = np.frombuffer(b''.join(records[i].hash for i in known), np.uint8).reshape(-1, 8)
    thumbnails = np.frombuffer(b''.join(records[i].thumbnail for i in known), np.uint8)
    digests = np.array([records[i].digest for i in known])
    pairs = np.concatenate(
        [_near_pairs(hashes, thumbnails.reshape(len(known), -1)), _equal_pairs(digests)]
    )
    found = []
    for members in _members(_joined(pairs, len(known))):
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


def _near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Compare all with all, some rows at a time."""
    # With bits as +1 and -1, a product of matrices counts equal bits minus different ones.
    bits = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    looks = thumbnails.astype(np.float32)
    looks -= looks.mean(axis=1, keepdims=True)
    looks /= np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-6)
    threshold = bits.shape[1] - 2 * HASH_DISTANCE
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(bits), _ROWS):
        rows = slice(start, start + _ROWS)
        alike = bits[rows] @ bits[start:].T >= threshold
        alike &= looks[rows] @ looks[start:].T >= CORRELATION
        alike = np.stack(np.nonzero(alike), axis=1)
        pairs.append(_chains(alike, len(bits) - start) + start)
    return np.concatenate(pairs)


def _chains(pairs: np.ndarray, count: int) -> np.ndarray:
    """Join what the pairs join, with one pair an image at most.

    A thousand frames of a camera that nothing moves before would be half a million pairs.
    """
    groups = _members(_joined(pairs, count))
    return np.concatenate(
        [np.empty((0, 2), dtype=np.int64)]
        + [np.stack([group[:-1], group[1:]], axis=1) for group in groups]
    )


def _joined(pairs: np.ndarray, count: int) -> np.ndarray:
    """Number the groups that pairs join; returns each image's."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _equal_pairs(digests: np.ndarray) -> np.ndarray:
    """Chain equal ones, each to the next."""
    order = np.argsort(digests, kind='stable')
    ordered = digests[order]
    same = ordered[1:] == ordered[:-1]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """The members of each group of two or more."""
    order = np.argsort(groups, kind='stable')
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    return [members for members in np.split(order, borders) if len(members) > 1]
