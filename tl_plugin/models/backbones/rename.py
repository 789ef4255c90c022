"""Gives the tensors of a checkpoint the names that another implementation has for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def rename_in_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a checkpoint's tensors the names of a network whose tensors stand in the same order.

    Args:
        state: Tensors by name, in the order in which their network defines them.
        wanted: The state dict of the other implementation of that network.

    Returns:
        The tensors of ``state`` under the names of ``wanted``.

    Raises:
        ValueError: If the two differ in number, in a shape, or in what a name ends with: a weight
            isn't taken for a running mean because it has the same shape.

    Example:
        >>> import torch
        >>> rename_in_order({'a.weight': torch.zeros(1)}, {'b.weight': torch.ones(1)})
        {'b.weight': tensor([0.])}
    """
    if len(state) != len(wanted):
        raise ValueError(f'expected {len(wanted)} tensors, got {len(state)}: another network?')
    for (old, tensor), (new, like) in zip(state.items(), wanted.items()):
        if tensor.shape != like.shape or old.rsplit('.')[-1] != new.rsplit('.')[-1]:
            raise ValueError(
                f'expected {new} of shape {tuple(like.shape)}, got {old} of shape '
                f'{tuple(tensor.shape)} in its place: the tensors stand in another order'
            )
    return dict(zip(wanted, state.values()))
