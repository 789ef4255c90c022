"""Notices what is to train but gets no gradient."""

from __future__ import annotations

import logging

from mmengine.logging import print_log
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from tl_plugin.stack.model_wrappers import parameters


class GradientCheck:
    """Looks at one iteration after a change of what trains, and warns.

    A backbone that recomputes activations in the reentrant way (``with_cp``, ``use_checkpoint``
    in some) gives its first blocks after a frozen trunk no gradients, and nothing else says so.

    Args:
        model: The model, with or without its wrapper. Nothing can be seen under FSDP, whose
            gradients lie in flat shards.
    """

    def __init__(self, model: nn.Module) -> None:
        self._missing: dict[int, str] = {}
        self._handles = []
        if isinstance(model, FullyShardedDataParallel):
            return
        for name, value in parameters(model).items():
            if value.requires_grad:
                self._missing[id(value)] = name
                self._handles.append(value.register_post_accumulate_grad_hook(self._note))

    def _note(self, value: nn.Parameter) -> None:
        self._missing.pop(id(value), None)

    def finish(self) -> list[str]:
        """Stop looking, and warn of parameters without a gradient.

        Returns:
            Their names.
        """
        for handle in self._handles:
            handle.remove()
        missing = list(self._missing.values())
        if missing:
            print_log(
                f'{len(missing)} parameters are to train but got no gradient in the first '
                f'iteration: {", ".join(missing[:5])}{", ..." if missing[5:] else ""}. Either the '
                'loss does not depend on them, or the backbone recomputes activations '
                '(with_cp, use_checkpoint), which stops gradients right after a frozen trunk: '
                "switch that off, and use mmengine's activation_checkpointing, which works.",
                logger='current',
                level=logging.WARNING,
            )
        return missing
