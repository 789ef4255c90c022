from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import (
    domain_accuracy,
    domain_classification_loss,
    gradient_reversal,
    input_gradient_penalty,
    several_domains_accuracy,
    several_domains_loss,
)
from tl_plugin.stack.options import checked

from .adversarial import AdversarialAlignment, mlp
from .base import DomainBatch


@MODELS.register_module()
class DANNHead(AdversarialAlignment):
    """A domain classifier behind a gradient-reversal layer (DANN).

    The classifier learns at its full rate to separate source from target; the features receive its
    gradient times ``-reversal_weight``. Ganin et al., "Domain-Adversarial Training of Neural
    Networks", JMLR 2016, arXiv 1505.07818.

    With several sources it classifies each of them and the target, all domains of equal weight.

    Logs ``accuracy`` (of the domain classifier; 0.5 is chance, with several sources
    1 / (num_sources + 1)), ``reversal_weight`` and, where there is a penalty, ``gradient_penalty``
    before its weight.

    Args:
        hidden_channels: Widths of the hidden layers, possibly empty. Defaults to (1024, 1024), the
            paper's larger network.
        norm: 'BN' puts a batch norm after each hidden linear layer, None nothing. Defaults to None,
            as in the paper.
        dropout: Probability of dropout after each hidden layer. Defaults to 0.
        label_smoothing: Of the two domain labels, in [0, 0.5). Defaults to 0.
        spectral_norm: Divide each of the classifier's weight matrices by its largest singular value
            (Miyato et al., ICLR 2018, arXiv 1802.05957), so that its gradient can't explode.
            Defaults to False.
        gradient_penalty: Weight of :func:`tl_plugin.functional.input_gradient_penalty`, half of it
            for each domain; not with ``norm='BN'``, which couples the images, and for one source
            only. Defaults to 0.
        num_sources: How many sources there are; more than one needs :class:`SeveralSources` as the
            training data. Defaults to 1.
        **kwargs: ``reversal_weight``, ``gamma``: see :class:`AdversarialAlignment`;
            ``in_features``, ``num_classes``, ``loss_weight``, ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    @checked
    def __init__(
        self,
        hidden_channels: Sequence[int] = (1024, 1024),
        norm: str | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        spectral_norm: bool = False,
        gradient_penalty: float = 0.0,
        num_sources: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        name = type(self).__name__
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f'{name}: label_smoothing must be in [0, 0.5), got {label_smoothing}')
        if gradient_penalty < 0:
            raise ValueError(f'{name}: gradient_penalty must be >= 0, got {gradient_penalty}')
        if gradient_penalty and norm == 'BN':
            raise ValueError(
                f"{name}: a gradient_penalty is a matter of single images, which norm='BN' couples:"
                ' use one of the two'
            )
        if num_sources < 1:
            raise ValueError(f'{name}: num_sources must be at least 1, got {num_sources}')
        if gradient_penalty and num_sources > 1:
            raise ValueError(f'{name}: a gradient_penalty works with num_sources=1 only')
        self.num_sources = num_sources
        self.chance = 1 / (num_sources + 1)
        self.label_smoothing = label_smoothing
        self.gradient_penalty = gradient_penalty
        self.classifier = mlp(
            self.classifier_width(),
            hidden_channels,
            1 if num_sources == 1 else num_sources + 1,
            norm,
            dropout,
            spectral_norm,
        )

    def classifier_width(self) -> int:
        """Return the width of the domain classifier's input."""
        return self.in_features

    def classifier_inputs(self, batch: DomainBatch) -> Tensor:
        """Return the domain classifier's input, (N, ``classifier_width()``)."""
        return batch.features

    def image_weights(self, batch: DomainBatch) -> Tensor | None:
        """Return the weights of a domain's images, mean 1, (N,); None for equal ones."""
        return batch.weights

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the domain classifier's loss, whose gradient reaches the features reversed."""
        reversal_weight = self.current_reversal_weight()
        inputs = [self.classifier_inputs(batch) for batch in (source, target)]
        # One pass over both domains, so that batch norm cannot remove what separates them.
        logits = self.classifier(gradient_reversal(torch.cat(inputs), reversal_weight))
        source_logits, target_logits = logits.split([len(rows) for rows in inputs])
        domain_logits = (source_logits, target_logits)
        weights = (self.image_weights(source), self.image_weights(target))
        if self.num_sources == 1:
            loss = domain_classification_loss(*domain_logits, self.label_smoothing, *weights)
            accuracy = domain_accuracy(*domain_logits)
        else:
            if source.domains is None:
                raise ValueError(
                    f'num_sources={self.num_sources} needs to know which source each image is '
                    "from: set train_dataloader.dataset = dict(type='SeveralSources', "
                    'datasets=[...])'
                )
            loss = several_domains_loss(
                *domain_logits, source.domains, self.label_smoothing, *weights
            )
            accuracy = several_domains_accuracy(*domain_logits, source.domains)
        self.log(accuracy=accuracy, reversal_weight=reversal_weight)
        if self.gradient_penalty:
            penalty = 0.5 * sum(input_gradient_penalty(self.classifier, rows) for rows in inputs)
            self.log(gradient_penalty=penalty)
            loss = loss + self.gradient_penalty * penalty
        return loss
