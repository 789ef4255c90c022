"""What hooks give a classifier for its training: weights, pseudo-labels, a memory of neighbours."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor

from tl_plugin.datasets.image_numbers import ImageNumbers, ImageWeights
from tl_plugin.stack.protocol import TARGET

from .joint_batch import JointBatch
from .neighbour_memory import NeighbourMemory
from .regularizers import Regularizer


class TrainingSignals:
    """The part of an :class:`AdaptationClassifier` that hooks set, and its losses read.

    None of it is a buffer: EMAHook pairs a model's buffers with those of a copy, which is made
    before these are set, and a checkpoint of the model has nothing of single images.
    """

    class_weights: Tensor | None = None
    forget_rate: Tensor | None = None
    _image_weights: ImageWeights | None = None
    _target_numbers: ImageNumbers | None = None
    _pseudo_labels: Tensor | None = None
    _memory: NeighbourMemory | None = None

    def set_class_weights(self, weights: Tensor | None) -> None:
        """Weight source images by class, in the classification loss and in alignments that can.

        Args:
            weights: One per class, (K,), mean 1 over the source images; None for equal ones.
        """
        if weights is not None and self.class_weights is None and self.alignments.unweighted:
            print_log(
                f'source images are weighted by class, but {", ".join(self.alignments.unweighted)} '
                'compares the domains without these weights and keeps aligning the shifted '
                'classes: dann and cdan use the weights',
                logger='current',
                level=logging.WARNING,
            )
        device = next(self.parameters()).device
        self.class_weights = None if weights is None else weights.float().to(device)

    def set_image_weights(self, weights: ImageWeights | None) -> None:
        """Weight source images one by one in the classification loss.

        Args:
            weights: Of all of them, mean 1; None for equal ones.
        """
        self._image_weights = weights

    def set_forget_rate(self, rate: float | None) -> None:
        """Leave the largest losses of each batch out of the classification loss.

        Each source chooses among its own images, so that a harder one isn't left out as a whole;
        so do the few labelled target images. All processes choose together.

        Args:
            rate: Largest share that is left out, in [0, 1); None uses all images.
        """
        if rate is None or self.forget_rate is None:
            # A tensor, so that a compiled step isn't compiled again each time it changes.
            device = next(self.parameters()).device
            self.forget_rate = None if rate is None else torch.zeros((), device=device)
        if rate is not None:
            self.forget_rate.fill_(rate)

    def memories(self) -> dict[str, Regularizer]:
        """Return the regularizers that remember something of each training image, by name."""
        return {name: each for name, each in self.regularizers.items() if each.remembers_images}

    def set_pseudo_labels(self, labels: Tensor | None, numbers: ImageNumbers) -> None:
        """Set pseudo-labels of target images, for alignments that read them.

        Args:
            labels: By the image's number, -1 for none; None removes them.
            numbers: Of the target images.
        """
        self._pseudo_labels, self._target_numbers = labels, numbers

    def set_neighbour_memory(self, state: Mapping[str, Tensor], numbers: ImageNumbers) -> None:
        """Set features and predictions of all target images, for alignments that read neighbours.

        Args:
            state: ``features`` of length 1, (n, D), and ``probabilities``, (n, K), by the image's
                number.
            numbers: Of the target images.

        Raises:
            ValueError: If there are fewer images than an alignment compares each one with.
        """
        count, size = self.alignments.num_neighbours, len(state['features'])
        if size <= count:
            raise ValueError(
                f'{count} neighbours of each target image need more images than that, got {size}: '
                'lower model.alignments.aad.num_neighbours, or give more target images'
            )
        device = next(self.parameters()).device
        self._memory = NeighbourMemory(**{name: v.to(device) for name, v in state.items()})
        self._target_numbers = numbers

    def _numbers_of(self, batch: JointBatch) -> list[int]:
        """Return the numbers of a batch's target images."""
        return self._target_numbers.of(batch.samples[batch.rows_of(TARGET)], TARGET)

    def neighbour_memory(self) -> dict[str, Tensor] | None:
        """Return what :meth:`set_neighbour_memory` continues with; None where it wasn't called."""
        return None if self._memory is None else self._memory.state()
