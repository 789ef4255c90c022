from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.engine.layers.selection import match_names
from tl_plugin.functional import starting_point_penalty
from tl_plugin.stack.options import checked

from .base import ModelView, Regularizer


@MODELS.register_module()
class L2SPRegularizer(Regularizer):
    """Keep weights near the pretrained ones (L2-SP).

    Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML
    2018, arXiv 1802.01483. Half the squared distance of all weights from where they started, and
    for the new ones, by default the head's, from zero. It takes the place of weight decay: set that
    to 0. Frozen weights don't count.

    Args:
        exclude: Regular expressions over parameter names: weights that decay to zero instead of to
            their initial values. ``()`` includes the head, which helps where it is pretrained.
            Defaults to the head.
        excluded_decay: Weight of their decay, relative to ``loss_weight``; 0 leaves them free.
            Defaults to 1.
        loss_weight: Factor of the loss. Defaults to 0.01, as in TLlib.
        **kwargs: ``init_cfg``: see :class:`Regularizer`.

    Raises:
        ValueError: If an argument is out of its range, or a pattern matches no parameter.
    """

    reads = ('weights',)

    @checked
    def __init__(
        self,
        exclude: str | Sequence[str] | None = None,
        excluded_decay: float = 1.0,
        loss_weight: float = 0.01,
        **kwargs,
    ) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if excluded_decay < 0:
            raise ValueError(f'L2SPRegularizer: excluded_decay must be >= 0, got {excluded_decay}')
        self.exclude = [exclude] if isinstance(exclude, str) else exclude
        self.excluded_decay = excluded_decay
        self._excluded: frozenset[str] | None = None

    def forward(self, source: ModelView, adapted: ModelView) -> Tensor:
        """Return the penalty of the weights that are trained."""
        if self._excluded is None:
            self._excluded = self._find_excluded(adapted.weights)
        trained = {name: value for name, value in adapted.weights.items() if value.requires_grad}
        held = [name for name in trained if name not in self._excluded]
        loss = next(iter(adapted.weights.values())).new_zeros((), dtype=torch.float32)
        if held:
            loss = loss + starting_point_penalty(
                [source.weights[name] for name in held], [trained[name] for name in held]
            )
        free = [value for name, value in trained.items() if name in self._excluded]
        if free and self.excluded_decay:
            zeros = [torch.zeros_like(value) for value in free]
            loss = loss + self.excluded_decay * starting_point_penalty(zeros, free)
        return loss

    def _find_excluded(self, weights: Mapping[str, Tensor]) -> frozenset[str]:
        names = list(weights)
        if self.exclude is None:
            return frozenset(name for name in names if name.startswith('head.'))
        return frozenset(name for pattern in self.exclude for name in match_names(pattern, names))
