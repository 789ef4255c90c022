from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRanks(torch.autograd.Function):
    """The rows of all ranks; the gradient comes back from the losses of all ranks."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_ranks(rows: Tensor) -> Tensor:
    """Puts the rows of all processes below each other, with gradient.

    For a loss that isn't a mean over images, such as a distance between covariances: every process
    computes it on the images of all of them. The gradients that ``DistributedDataParallel`` then
    averages are those of one process with the joint batch.

    Args:
        rows: One row an image, (N, ...), the same N in every process.

    Returns:
        (N * processes, ...) in the order of ranks; ``rows`` itself in a single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRanks.apply(rows)
