"""How many threads a step on cached features is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .cut import Cut

#: Up to so many multiplications and additions in a forward pass one thread is enough. On two cores
#: that do nothing else a second one saves up to a quarter of such a step, a tenth of a millisecond
#: or two; where anything else runs, waiting for it multiplies the step, by ten and more.
LIGHT = 20_000_000


def threads_for(model: nn.Module, cut: Cut, batch_size: int) -> int | None:
    """How many threads to train with on a CPU.

    It is a function of the model and the batch, and not of a measurement: sums come out a little
    different with other numbers of threads, and a resumed run must have those of before.

    Args:
        model: The unwrapped model.
        cut: Where it goes on from features.
        batch_size: Images a step.

    Returns:
        1 where further threads save little and may cost much; None for torch's own number.
    """
    trained = [value for value in model.parameters() if value.requires_grad]
    on_cpu = all(value.device.type == 'cpu' for value in trained)
    # Behind vectors each weight is used once an image; behind maps or tokens who knows how often.
    vectors = all(value.dim() == 2 for value in cut.features)
    work = batch_size * sum(value.numel() for value in trained)
    return 1 if on_cpu and vectors and work <= LIGHT else None


@contextmanager
def few_threads(number: int | None) -> Iterator[None]:
    """Lets torch compute with so many threads; that takes less than a microsecond.

    Args:
        number: How many; None changes nothing.
    """
    before = torch.get_num_threads()
    if number is None or number >= before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
