"""Outputs of backbones and necks of any structure: one vector per image, selected rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


def channel_dim(features: Tensor) -> int:
    """Return the channel dimension of (N, D), (N, tokens, D) or (N, D, H, W)."""
    return 2 if features.dim() == 3 else 1


def one_vector(output: Any) -> Tensor:
    """Reduce to one vector per image: average maps and tokens, concatenate several outputs."""
    vectors = []
    for leaf in tree_flatten(output)[0]:
        positions = [dim for dim in range(1, leaf.dim()) if dim != channel_dim(leaf)]
        vectors.append(leaf.mean(positions) if positions else leaf)
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)


def last_output(output: Any) -> Tensor:
    """Return the last tensor of the last stage; of patch and class tokens, the class token."""
    last = output[-1] if isinstance(output, (tuple, list)) else output
    return tree_flatten(last)[0][-1]


def take_rows(feats: Any, rows: slice, num_rows: int) -> Any:
    """Select the rows of some images in a network's output for a batch.

    Args:
        feats: Tensors, in lists, tuples and dicts.
        rows: Which images.
        num_rows: How many images the batch has.

    Raises:
        ValueError: If a tensor hasn't one row per image.
    """
    whole = rows == slice(0, num_rows)  # no indexing, hence no copy in the backward pass

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.shape[:1] != (num_rows,):
            raise ValueError(
                f'features of a batch of {num_rows} images must have {num_rows} rows, got a tensor '
                f'of shape {tuple(leaf.shape)}: this backbone or neck mixes images and cannot be '
                'split into domains'
            )
        return leaf if whole else leaf[rows]

    return tree_map(take, feats)


def join_rows(*feats: Any) -> Any:
    """Concatenate a network's outputs for several batches."""

    def join(*leaves: Any) -> Any:
        return torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]

    return feats[0] if len(feats) == 1 else tree_map(join, *feats)
