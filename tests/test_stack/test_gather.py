import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_distributed
from tl_plugin.stack.gather import gather_ranks


def test_one_process_gets_its_own_rows():
    rows = torch.randn(3, 2)
    assert gather_ranks(rows) is rows


def _gather(sizes):
    rank = dist.get_rank()
    rows = torch.full((sizes[rank], 1), 10.0 * rank) + torch.arange(sizes[rank])[:, None]
    rows.requires_grad_()
    everything = gather_ranks(rows)
    # Each rank weighs the rows in its own way: the gradient must come from all of them.
    weights = torch.arange(1.0, 1.0 + len(everything)) * (rank + 1)
    (everything.squeeze(1) * weights).sum().backward()
    return (
        everything.squeeze(1).tolist(),
        rows.grad.squeeze(1).tolist(),
        gather_ranks(rows.detach()).requires_grad,
    )


@pytest.mark.parametrize('sizes', [(2, 2, 2), (2, 0, 3)])
def test_rows_in_the_order_of_ranks_and_gradients_of_all_losses(sizes):
    expected = [10.0 * rank + index for rank, size in enumerate(sizes) for index in range(size)]
    offset = 0
    results = run_distributed(_gather, sizes, world_size=3)
    for (everything, grad, requires_grad), size in zip(results, sizes):
        assert everything == expected
        assert grad == [6.0 * (offset + index + 1) for index in range(size)]  # 6 = 1 + 2 + 3
        assert not requires_grad
        offset += size
