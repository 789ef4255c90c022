"""The classification loss of the images with small losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tl_plugin.functional import small_losses
from tl_plugin.stack.gather import gather_ranks

#: More images than a batch has.
_MANY = 2**24


def small_loss_mean(
    loss: Callable[..., dict[str, Tensor]],
    groups: Sequence[int],
    weights: Tensor | None,
    forget_rate: Tensor,
) -> dict[str, Tensor]:
    """Return a head's losses, ``loss`` of the images with small ones alone.

    All processes choose together: the mean over processes, which ``DistributedDataParallel`` takes
    of the gradients, is the loss of one process with all images.

    Args:
        loss: ``head.loss`` of N images.
        groups: Number of the group of each, which chooses by itself.
        weights: Of the images, (N,); they don't change the choice. None for equal ones.
        forget_rate: Largest share that is left out, 0-d.

    Returns:
        As ``head.loss``; nothing where there is no image.

    Raises:
        ValueError: If the head has no loss of each image.
    """
    losses = loss(reduction_override='none') if groups else {'loss': forget_rate.new_zeros(0)}
    each = losses.get('loss')
    if each is None or each.shape[:1] != (len(groups),):
        raise ValueError(
            'choosing images by their losses needs one loss an image, and this head gives '
            f'{", ".join(f"{name} {tuple(value.shape)}" for name, value in losses.items())}: use '
            'a head such as LinearClsHead, or leave out the strategy co_teaching'
        )
    each = each.flatten(1).sum(dim=1) if each.dim() > 1 else each
    kept, mean_count = _choose(each.detach().float(), groups, forget_rate)
    kept = kept.to(each.dtype) if weights is None else kept * weights
    return {**losses, 'loss': (each * kept).sum() / mean_count} if groups else {}


def _choose(losses: Tensor, groups: Sequence[int], rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of this process's images are kept, and their number, the mean over processes."""
    distributed = dist.is_available() and dist.is_initialized()
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if distributed else (1, 0)
    names = torch.arange(len(losses)) + rank * _MANY
    own = torch.stack([torch.tensor(groups, dtype=torch.long), names]).T
    own = own.to(losses.device, non_blocking=True)
    everyone, (all_groups, all_names) = gather_ranks(losses), gather_ranks(own).T
    kept = small_losses(everyone, all_groups, rate)
    mine = ((own[:, 1:] == all_names) & kept).any(dim=1)
    return mine, kept.sum() / ranks
