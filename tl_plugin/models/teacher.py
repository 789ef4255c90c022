from __future__ import annotations

import torch
from torch import Tensor, nn

from tl_plugin.stack.model_wrappers import evaluating

from .features import one_vector

_PARTS = ('backbone.', 'neck.', 'head.')


class Teacher(nn.Module):
    r"""Exponential moving average of a classifier's weights, and its predictions (mean teacher).

    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780:
    :math:`\theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta` with
    :math:`\alpha = \min(m, t / (t + 1))` after t updates, so that the first one copies and the mean
    of the first few isn't biased towards the initial weights. Running statistics are averaged, too.

    All of it is buffers, which are in the checkpoint, but unlike the parameters of mmengine's
    ``ExponentialMovingAverage`` not among those that optimizers, DDP and freezing handle.

    Args:
        classifier: Its backbone, neck and head are averaged.
        momentum: m, in [0, 1).

    Raises:
        ValueError: If the momentum is out of its range.
    """

    def __init__(self, classifier: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f'teacher_momentum must be in [0, 1), got {momentum}')
        self.momentum = momentum
        for name, value in _state(classifier).items():
            self.register_buffer(_key(name), value.detach().clone())
        self.register_buffer('updates', torch.zeros(()))

    @torch.no_grad()
    def follow(self, classifier: nn.Module) -> None:
        """Update the average, once after each change of the weights.

        Called before the next step it is the same as right after the last one, and resumes exactly.
        """
        ours, theirs = [], []
        for name, value in _state(classifier).items():
            own = self._buffers[_key(name)]
            if own.is_floating_point():
                ours.append(own)
                theirs.append(value.detach())
            else:
                own.copy_(value)
        lag = torch._foreach_sub(theirs, ours)
        torch._foreach_mul_(lag, (self.updates / (self.updates + 1)).clamp(max=self.momentum))
        torch._foreach_copy_(ours, torch._foreach_sub(theirs, lag))  # exact where it copies
        self.updates += 1

    @torch.no_grad()
    def forward(self, classifier: nn.Module, inputs: Tensor) -> Tensor:
        """Return scores of images, (N, K), in eval mode with the teacher's weights."""
        state = {name: self._buffers[_key(name)] for name in _state(classifier)}
        with evaluating(classifier):
            scores = torch.func.functional_call(classifier, state, (inputs,), dict(mode='tensor'))
        return one_vector(scores)


def _state(classifier: nn.Module) -> dict[str, Tensor]:
    named = [*classifier.named_parameters(), *classifier.named_buffers()]
    return {name: value for name, value in named if name.startswith(_PARTS)}


def _key(name: str) -> str:
    return name.replace('.', '/')
