from __future__ import annotations

from typing import Any

from mmpretrain.registry import MODELS

from tl_plugin.engine.low_rank import (
    add_adapters,
    complete_state,
    merge_adapters,
    merged_state,
)

from .adaptation_classifier import AdaptationClassifier


@MODELS.register_module()
class LoRAClassifier(AdaptationClassifier):
    """Have low-rank adapters in the linear layers and 1x1 convolutions of the backbone (LoRA).

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685.
    Its ``state_dict`` is that of the network without adapters, their products added to the weights,
    so that checkpoints, export, interpolation and comparison are those of an ordinary classifier;
    loading one starts with adapters that change nothing. What else trains is :class:`FreezeHook`'s
    business, resuming and adapter-only files :class:`LoRAHook`'s: the overlay ``lora`` has both.

    Args:
        *args: As in :class:`AdaptationClassifier`.
        lora: ``rank`` (8), ``alpha`` (16) and ``layers`` (':-1'), see
            :func:`tl_plugin.engine.low_rank.add_adapters`. Defaults to None, these.
        **kwargs: As in :class:`AdaptationClassifier`.

    Raises:
        ValueError: If there is no layer to adapt, or a mean teacher would have adapters of its own.
    """

    def __init__(self, *args: Any, lora: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.teacher is not None:
            raise ValueError(
                'a mean teacher copies the weights, in which LoRA hides its adapters: take one of '
                'the two, fine_tune with a teacher or lora without (teacher_momentum=None)'
            )
        self.adapted = add_adapters(self, **(lora or {}))
        self._register_state_dict_hook(
            lambda module, state, prefix, _: merged_state(module, state, prefix)
        )
        self._register_load_state_dict_pre_hook(_complete, with_module=True)

    def merge_adapters(self) -> None:
        """Add the adapters to the weights for good, for export."""
        merge_adapters(self)


def _complete(module: LoRAClassifier, state: dict, prefix: str, *_: Any) -> None:
    complete_state(module, state, prefix)
