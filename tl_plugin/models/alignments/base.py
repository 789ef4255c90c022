from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor

from tl_plugin.functional import sigmoid_ramp
from tl_plugin.stack.options import checked


class DomainBatch(NamedTuple):
    """One domain's half of a batch, as alignments get it.

    Attributes:
        features: ``head.pre_logits`` of N images, one vector an image, (N, D).
        logits: The head's scores, (N, K). None unless an alignment with ``needs_logits`` is there.
        labels: Class indices (N,), -1 for every unlabelled image. None where batch augmentation
            (mixup, cutmix) left no single label.
        strong_logits: Scores of a strongly augmented view of the same images, (N, K). None unless
            the train loop has a ``strong_view`` and an alignment ``needs_logits``.
        teacher_logits: Scores of the mean teacher, (N, K). None unless an alignment has a
            ``teacher_momentum``.
        masked_logits: Scores of the same images with patches masked, (N, K). None unless an
            alignment has a ``mask``.
        domains: Index of the source that each image is from, (N,). None where the data have none.
        weights: Weight of each image, mean 1 over the domain, (N,). None for equal ones.
        interpolated_logits: Scores of source images at random between those in the joint batch and
            those in a batch of their own, (N, K). None unless an alignment interpolates.
        neighbours: Predictions for the images nearest to each, (N, k, K). None unless an alignment
            has ``num_neighbours`` and a hook fills the memory that they are found in.
        pseudo_labels: Labels assigned by a hook, (N,), -1 for none. None without such a hook.
    """

    features: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None
    strong_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    masked_logits: Tensor | None = None
    domains: Tensor | None = None
    weights: Tensor | None = None
    pseudo_labels: Tensor | None = None
    interpolated_logits: Tensor | None = None
    neighbours: Tensor | None = None


class Alignment(BaseModule):
    """A loss that pulls the two domains' features or predictions together.

    A subclass implements :meth:`forward` and is registered in ``MODELS``. An adversarial alignment
    owns its discriminator, so that optimizer, checkpoint, device and DDP need no special handling.
    One that isn't a mean over images reads them through
    :func:`tl_plugin.stack.gather.gather_ranks`, so that several processes compute what one does.

    Args:
        in_features: D, the width of the features. :class:`AdaptationClassifier` fills it in.
        num_classes: K, the number of classes. :class:`AdaptationClassifier` fills it in.
        loss_weight: Factor of the loss. Not negative. Defaults to 1.
        gamma: Steepness of the loss's rise over training, see
            :func:`tl_plugin.functional.sigmoid_ramp`, so that features aren't aligned before they
            discriminate classes; None keeps it constant. Defaults to None.
        init_cfg: Of mmengine's ``BaseModule``. Defaults to None.

    Raises:
        ValueError: If ``loss_weight`` is negative or ``gamma`` not positive.
    """

    #: Whether :meth:`forward` reads ``DomainBatch.logits``, which cost one more head forward, as
    #: those of one softmax over the classes: heads for several labels an image are refused then.
    needs_logits = False

    #: Whether it compares the target with source images, or uses the target alone.
    needs_source = True

    #: Whether it reads ``DomainBatch.strong_logits``, for which the loop has to give two views.
    needs_strong_view = False

    #: Whether it ignores the class weights of source images.
    ignores_class_weights = False

    #: Momentum of a mean teacher, for an alignment that reads ``DomainBatch.teacher_logits``.
    teacher_momentum: float | None = None

    #: The same where no alignment sets one.
    usual_teacher_momentum: float | None = None

    #: Whether the source learns scores between those of the joint batch and those of its own.
    interpolates_logits = False

    #: Masks images, for an alignment that reads ``DomainBatch.masked_logits``.
    mask: Callable[[Tensor], Tensor] | None = None

    #: Of how many nearest images it reads ``DomainBatch.neighbours``.
    num_neighbours = 0

    #: How many sources it distinguishes by ``DomainBatch.domains``; 1 treats them as one.
    num_sources = 1

    @checked
    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss_weight: float = 1.0,
        gamma: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        name = type(self).__name__
        if loss_weight < 0:
            raise ValueError(f'{name}: loss_weight must be >= 0, got {loss_weight}')
        if gamma is not None and gamma <= 0:
            raise ValueError(f'{name}: gamma must be > 0 or None (constant), got {gamma}')
        self.in_features = in_features
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.gamma = gamma
        # A tensor, so that it moves with the module and a compiled step isn't compiled again each
        # time it changes; not in the checkpoint, because the loop sets it before every step.
        self.register_buffer('progress', torch.zeros(()), persistent=False)
        self.diagnostics: dict[str, Tensor] = {}

    def set_progress(self, progress: float) -> None:
        """Set the fraction of training completed, in [0, 1]. Schedules are functions of it."""
        self.progress.fill_(progress)

    def current_weight(self) -> float | Tensor:
        """Return the factor of the loss at the current progress."""
        if self.gamma is None:
            return self.loss_weight
        return self.loss_weight * sigmoid_ramp(self.progress, self.gamma)

    def log(self, **values: Tensor) -> None:
        """Record values to be logged beside the loss, as ``<name of the alignment>_<key>``."""
        self.diagnostics.update({key: value.detach() for key, value in values.items()})

    @abstractmethod
    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the alignment loss of one batch, not yet weighted.

        Args:
            source: N labelled images.
            target: M images; ``target.labels`` holds -1 where there is no label. N and M differ.

        Returns:
            A 0-d tensor.
        """
