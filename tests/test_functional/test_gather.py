import torch
import torch.distributed as dist

from tests.distributed import run_distributed
from tl_plugin.functional import gather_ranks


def test_one_process_gets_its_own_rows():
    rows = torch.randn(3, 2)
    assert gather_ranks(rows) is rows


def _gather():
    rank = dist.get_rank()
    rows = torch.tensor([[1.0 + rank], [10.0 + rank]], requires_grad=True)
    everything = gather_ranks(rows)
    # Each rank weighs the rows in its own way: the gradient must come from all of them.
    (everything.squeeze(1) * torch.arange(1.0, 7.0) * (rank + 1)).sum().backward()
    return everything.tolist(), rows.grad.tolist(), gather_ranks(rows.detach()).requires_grad


def test_rows_in_the_order_of_ranks_and_gradients_of_all_losses():
    results = run_distributed(_gather, world_size=3)
    for rank, (everything, grad, requires_grad) in enumerate(results):
        assert everything == [[1.0], [10.0], [2.0], [11.0], [3.0], [12.0]]
        assert grad == [[6.0 * (2 * rank + 1)], [6.0 * (2 * rank + 2)]]
        assert not requires_grad
