import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_distributed


def sum_of_ranks(offset: float) -> tuple:
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    return dist.get_rank(), total.item()


def fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError('only here')
    dist.barrier()


@pytest.mark.parametrize('world_size', [2, 4])
def test_results_come_back_by_rank(world_size):
    total = sum(range(world_size)) + 0.5 * world_size
    results = run_distributed(sum_of_ranks, 0.5, world_size=world_size)
    assert results == [(rank, total) for rank in range(world_size)]


def test_a_failing_rank_is_named_with_its_traceback():
    with pytest.raises(RuntimeError, match=r'rank 1:[\s\S]*ValueError: only here'):
        run_distributed(fail_on_rank_one)
