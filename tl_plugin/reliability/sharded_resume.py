"""Let runs under FSDP resume: mmengine passes the optimizer's state in the place of the model."""

from __future__ import annotations

from mmengine._strategy import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel


def load_optim_state_dict(self: FSDPStrategy, state_dict: dict) -> None:
    """Load the optimizer's state, each rank its shards.

    torch 2.1 changed the order of the arguments of ``optim_state_dict_to_load``, and mmengine
    0.10.7 gives them in the old one: ``TypeError: unhashable type: 'dict'``.

    Args:
        self: The strategy, with its model and optimizer built.
        state_dict: From ``FSDPStrategy.optim_state_dict``.
    """
    state = FullyShardedDataParallel.optim_state_dict_to_load(
        model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
    )
    self.optim_wrapper.load_state_dict(state)


def repair_sharded_resume() -> None:
    """Replace the method of mmengine's strategy."""
    FSDPStrategy.load_optim_state_dict = load_optim_state_dict
