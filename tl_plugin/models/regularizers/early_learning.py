from __future__ import annotations

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.datasets.image_numbers import ImageNumbers
from tl_plugin.functional import early_learning_loss, early_learning_targets
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import ModelView, Regularizer


@MODELS.register_module()
class EarlyLearningRegularizer(Regularizer):
    """Hold predictions at what was learned of each image before wrong labels were (ELR).

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
    arXiv 2007.00151. Each image has a target, the moving average of the predictions for it, see
    :func:`tl_plugin.functional.early_learning_targets`. Images are identified by what they are, see
    :class:`ImageNumbers`; every process keeps the targets of all, which are in the checkpoint: as
    many numbers as images times classes. Needs an :class:`ImageMemoryHook`.

    Args:
        momentum: Of the targets, in [0, 1). Defaults to 0.7, as in the paper for CIFAR-10; it takes
            0.9 for CIFAR-100.
        loss_weight: Factor of the loss. Defaults to 3, as in the paper for CIFAR-10; it takes 7
            for CIFAR-100.
        **kwargs: ``images``, ``init_cfg``: see :class:`Regularizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    reads = ('logits', 'samples')
    needs_source_model = False
    remembers_images = True

    @checked
    def __init__(self, momentum: float = 0.7, loss_weight: float = 3.0, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(
                f'EarlyLearningRegularizer: momentum must be in [0, 1), got {momentum}'
            )
        self.momentum = momentum
        # Neither is a buffer: DistributedDataParallel, EMAHook and checkpoints of weights would
        # take it for a part of the network.
        self._numbers: ImageNumbers | None = None
        self._targets: Tensor | None = None

    def remember(self, numbers: ImageNumbers, state: Tensor | None = None) -> None:
        """Begin to remember images, or go on.

        Args:
            numbers: Of all training images.
            state: What :meth:`memory` returned in the run that is resumed. Defaults to None.
        """
        self._numbers, self._targets = numbers, state

    def memory(self) -> Tensor | None:
        """Return the targets, (images, K), on the CPU; None before the first step."""
        return None if self._targets is None else self._targets.cpu()

    def forward(self, source: ModelView | None, adapted: ModelView) -> Tensor:
        """Update the targets of the images, and return the mean loss over them.

        Raises:
            ValueError: If nothing numbers the images.
        """
        if self._numbers is None:
            raise ValueError(
                'EarlyLearningRegularizer remembers something of each image: add '
                "dict(type='ImageMemoryHook') to custom_hooks, as the overlay early_learning does"
            )
        logits = adapted.logits.float()
        if self._targets is None:
            self._targets = logits.new_zeros(len(self._numbers), logits.shape[1])
        rows = torch.tensor(self._numbers.of(adapted.samples), dtype=torch.long)
        rows = rows.to(logits.device, non_blocking=True)
        self._targets = self._targets.to(logits.device)
        # All processes update the targets of all images, of which each sees others every pass.
        everyone, predicted = gather_ranks(rows), gather_ranks(logits.detach())
        updated = early_learning_targets(
            self._targets.index_select(0, everyone), predicted, everyone, self.momentum
        )
        self._targets.index_copy_(0, everyone, updated)
        return early_learning_loss(logits, self._targets.index_select(0, rows)).mean()
