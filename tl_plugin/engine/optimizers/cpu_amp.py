"""Automatic mixed precision on a CPU, which mmengine's own wrapper refuses."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """Train in mixed precision on a CPU, in bfloat16.

    ``torch.autocast`` has bfloat16 kernels for CPUs, and mmengine's autocast takes them;
    :class:`mmengine.optim.AmpOptimWrapper` alone asks for a GPU, for its gradient scaler. bfloat16
    has the exponents of float32, so that no gradient underflows and nothing has to be scaled.
    ``tools/train.py`` puts this wrapper in the place of ``AmpOptimWrapper`` where there is no GPU.

    A checkpoint of either wrapper resumes under the other: this one writes no state of a scaler and
    ignores the one that it finds.

    Args:
        loss_scale: Ignored, for configs written for a GPU. Default: ``'dynamic'``.
        dtype: Type to compute in: ``'bfloat16'``, which None also means. Default: None.
        **kwargs: Passed to :class:`mmengine.optim.OptimWrapper`.

    Raises:
        ValueError: If ``dtype`` is another, such as ``'float16'``.
    """

    def __init__(
        self,
        loss_scale: str | float | dict = 'dynamic',
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise ValueError(
                'mixed precision on a CPU computes in bfloat16, got '
                f"optim_wrapper.dtype={dtype!r}: set it to 'bfloat16', or train on a GPU"
            )
        # Not that of AmpOptimWrapper, which asserts that there is a GPU.
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16

    def state_dict(self) -> dict:
        """Return the optimizer's state, without that of a scaler."""
        return OptimWrapper.state_dict(self)
