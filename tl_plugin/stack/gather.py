from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRanks(torch.autograd.Function):
    """Gather the rows of all ranks; the gradient is the sum over the losses of all ranks."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        ctx.sizes = [int(size) for size in _all_gather(torch.tensor(len(rows), device=rows.device))]
        # Backends need tensors of one size, or hang: a short batch is padded.
        filled = rows.new_zeros(max(ctx.sizes), *rows.shape[1:])
        filled[: len(rows)] = rows
        return torch.cat([part[:size] for part, size in zip(_all_gather(filled), ctx.sizes)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.split(ctx.sizes)[dist.get_rank()]


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


def gather_ranks(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, with gradient.

    For a loss that isn't a mean over images, such as a distance between covariances: every process
    computes it on the images of all of them. The gradients that ``DistributedDataParallel`` then
    averages are those of one process with the joint batch.

    Args:
        rows: One row per image, (N, ...). N may differ between processes, the rest may not.

    Returns:
        The rows of all processes in the order of ranks, (sum of all N, ...); ``rows`` itself in a
        single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRanks.apply(rows)


def gather_in_order(rows: Tensor, count: int) -> Tensor:
    """Join what the processes computed of their shares, in the order of the images.

    Args:
        rows: One row per image of this process's share, as mmengine's samplers deal it out.
        count: How many images there are; processes get a few twice to have equal shares.

    Returns:
        (count, ...), on every process.
    """
    gathered = gather_ranks(rows)
    dealt = gathered.unflatten(0, (len(gathered) // max(len(rows), 1), len(rows)))
    return dealt.transpose(0, 1).flatten(0, 1)[:count]
