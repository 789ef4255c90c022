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
#: Of the tree of thumbnails. In 8, a sixth of a million pictures have more than _NEIGHBOURS others
#: near them, and all of these are compared with each other; in 12, none.
_DIMENSIONS = 12
_NEIGHBOURS = 32


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
    # One of equal pixels stands for all.
    digests = np.array([records[i].digest for i in known])
    first, equal = np.unique(digests, return_index=True, return_inverse=True)[1:]
    groups = _join_similar(*(t.reshape(len(known), -1)[first] for t in (hashes, thumbnails)))[equal]
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


def _join_similar(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Group the images that look alike.

    Thumbnails that correlate are near each other, and nearer still in fewer dimensions, so that a
    tree of their principal components finds all of them without comparing all with all. That is
    left to images that have more than :data:`_NEIGHBOURS` others near them: where one of a pair has
    fewer, the other one is among them.

    Args:
        hashes: ``(N, 8)``.
        thumbnails: ``(N, pixels)``.

    Returns:
        The number of each image's group, ``(N,)``.
    """
    from scipy.spatial import cKDTree

    count = len(hashes)
    points = _principal_components(thumbnails)
    # Asked in the order in which they lie in the tree, a million points take a third of the time.
    order = cKDTree(points).indices
    points = points[order]
    tree = cKDTree(points)
    ranks = range(1, min(_NEIGHBOURS + 1, count) + 1)
    reach = np.sqrt(2 - 2 * CORRELATION) + 1e-4
    pairs, crowded = [], []
    for start in range(0, count, _ROWS):
        distances, near = tree.query(points[start : start + _ROWS], ranks, 0, 2, reach)
        found = np.isfinite(distances)
        crowded.append(order[start + np.flatnonzero(found[:, -1])])
        rows = order[start + np.nonzero(found)[0]]
        pairs.append(_alike(rows, order[near[found]], hashes, thumbnails))
    groups = _join(np.arange(count), *np.concatenate(pairs, axis=1))
    if count <= _NEIGHBOURS:
        return groups
    many = np.sort(np.concatenate(crowded))
    bits, pixels = _signs(hashes[many]), _unit(thumbnails[many])
    for start in range(0, len(many), _ROWS):
        rows = slice(start, start + _ROWS)
        # With bits as +1 and -1, a product of matrices counts equal bits minus different ones.
        similar = bits[rows] @ bits[start:].T >= bits.shape[1] - 2 * HASH_DISTANCE
        similar &= pixels[rows] @ pixels[start:].T >= CORRELATION
        # At once, since the pairs of all rows may be more than fit into memory.
        groups = _join(groups, *(many[start + index] for index in np.nonzero(similar)))
    return groups


def _alike(
    first: np.ndarray, second: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray
) -> np.ndarray:
    """Return those of the pairs that are near duplicates, ``(2, pairs)``."""
    differing = np.unpackbits(hashes[first] ^ hashes[second], axis=1).sum(1)
    near = (first != second) & (differing <= HASH_DISTANCE)
    first, second = first[near], second[near]
    correlation = (_unit(thumbnails[first]) * _unit(thumbnails[second])).sum(1)
    return np.stack([first, second])[:, correlation >= CORRELATION]


def _join(groups: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join the groups of pairs of images, and return new numbers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = groups[first], groups[second]
    shape = (len(groups), len(groups))
    graph = coo_array((np.ones(len(first), dtype=bool), ends), shape=shape)
    return connected_components(graph, directed=False)[1][groups]


def _signs(hashes: np.ndarray) -> np.ndarray:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


def _principal_components(thumbnails: np.ndarray) -> np.ndarray:
    """Project unit thumbnails on directions in which some of them differ most, ``(N, D)``."""
    some = _unit(thumbnails[:: len(thumbnails) // 4096 + 1])
    directions = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:_DIMENSIONS].T
    parts = range(0, len(thumbnails), 16 * _ROWS)
    return np.concatenate([_unit(thumbnails[at : at + 16 * _ROWS]) @ directions for at in parts])
