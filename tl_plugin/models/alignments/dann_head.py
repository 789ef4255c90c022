from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from tl_plugin.functional import (
    domain_accuracy,
    domain_classification_loss,
    gradient_reversal,
    sigmoid_ramp,
)

from .base import Alignment, DomainBatch


@MODELS.register_module()
class DANNHead(Alignment):
    """A domain classifier behind a gradient-reversal layer (DANN).

    The classifier learns at its full rate to tell source from target; the features receive its
    gradient times ``-coefficient``. Ganin et al., "Domain-Adversarial Training of Neural Networks",
    JMLR 2016, arXiv 1505.07818.

    Logs ``accuracy`` (of the domain classifier, 0.5 is chance) and ``coefficient``.

    Args:
        hidden_channels: Widths of the hidden layers, possibly empty. Defaults to (1024, 1024), the
            paper's larger network.
        norm: 'BN' puts a batch norm after each hidden linear layer, None nothing. Defaults to None,
            as in the paper.
        dropout: Probability of dropout after each hidden layer. Defaults to 0.
        coefficient: The reversal coefficient at the end of training. Defaults to 1.
        gamma: Steepness of the coefficient's rise over training, see
            :func:`tl_plugin.functional.sigmoid_ramp`; None keeps it constant. Defaults to 10.
        label_smoothing: Of the two domain labels, in [0, 0.5). Defaults to 0.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``init_cfg``: see
            :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        hidden_channels: Sequence[int] = (1024, 1024),
        norm: str | None = None,
        dropout: float = 0.0,
        coefficient: float = 1.0,
        gamma: float | None = 10.0,
        label_smoothing: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if coefficient < 0:
            raise ValueError(f'DANNHead: coefficient must be >= 0, got {coefficient}')
        if gamma is not None and gamma <= 0:
            raise ValueError(f'DANNHead: gamma must be > 0 or None (constant), got {gamma}')
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f'label_smoothing must be in [0, 0.5), got {label_smoothing}')
        self.coefficient = coefficient
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.classifier = _mlp(self.in_features, hidden_channels, norm, dropout)

    def current_coefficient(self) -> Tensor:
        """The reversal coefficient at the present progress, a 0-d tensor."""
        if self.gamma is None:
            return torch.full_like(self.progress, self.coefficient)
        return self.coefficient * sigmoid_ramp(self.progress, self.gamma)

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """The domain classifier's loss, whose gradient reaches the features reversed."""
        coefficient = self.current_coefficient()
        # One pass over both domains, so that a batch norm sees them together: normalised apart, it
        # would hand the classifier nothing to tell and the features nothing to mend.
        features = torch.cat([source.features, target.features])
        logits = self.classifier(gradient_reversal(features, coefficient))
        source_logits, target_logits = logits.split([len(source.features), len(target.features)])
        self.log(accuracy=domain_accuracy(source_logits, target_logits), coefficient=coefficient)
        return domain_classification_loss(source_logits, target_logits, self.label_smoothing)


def _mlp(
    in_features: int, hidden_channels: Sequence[int], norm: str | None, dropout: float
) -> nn.Sequential:
    if norm not in (None, 'BN'):
        raise ValueError(f"DANNHead: norm must be 'BN' or None, got {norm!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f'DANNHead: dropout must be in [0, 1), got {dropout}')
    layers: list[nn.Module] = []
    width = in_features
    for hidden in hidden_channels:
        layers.append(nn.Linear(width, hidden))
        if norm == 'BN':
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU(inplace=True))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))
