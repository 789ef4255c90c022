from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalize_spectrum

from tl_plugin.functional import sigmoid_ramp
from tl_plugin.stack.options import checked

from .base import Alignment


class AdversarialAlignment(Alignment):
    """Base of alignments whose network is trained against the features by gradient reversal.

    Args:
        reversal_weight: Gradient-reversal weight (lambda) at the end of training. Defaults to 1.
        gamma: Steepness of this weight's rise over training, see
            :func:`tl_plugin.functional.sigmoid_ramp`; None keeps it constant. The adversary itself
            learns with the whole loss from the start. Defaults to 10.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``init_cfg``: see
            :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    @checked
    def __init__(self, reversal_weight: float = 1.0, gamma: float | None = 10.0, **kwargs) -> None:
        super().__init__(gamma=gamma, **kwargs)
        if reversal_weight < 0:
            raise ValueError(
                f'{type(self).__name__}: reversal_weight must be >= 0, got {reversal_weight}'
            )
        self.reversal_weight = reversal_weight
        #: Chance level of the logged ``accuracy``, where there is one.
        self.chance = 0.5
        # Not in the checkpoint: the hook that backs off sets it again on resume.
        self.register_buffer('backoff', torch.ones(()), persistent=False)

    def set_backoff(self, factor: float) -> None:
        """Multiply the gradient-reversal weight by a factor in [0, 1]."""
        if not 0 <= factor <= 1:
            raise ValueError(f'{type(self).__name__}: a back-off is in [0, 1], got {factor}')
        self.backoff.fill_(factor)

    def current_weight(self) -> float:
        """Return the factor of the loss, which is constant: the reversal weight rises instead."""
        return self.loss_weight

    def current_reversal_weight(self) -> Tensor:
        """Return the gradient-reversal weight at the current progress, a 0-d tensor."""
        if self.gamma is None:
            return self.reversal_weight * self.backoff
        return self.reversal_weight * self.backoff * sigmoid_ramp(self.progress, self.gamma)


def mlp(
    in_features: int,
    hidden_channels: Sequence[int],
    out_features: int = 1,
    norm: str | None = None,
    dropout: float = 0.0,
    spectral_norm: bool = False,
) -> nn.Sequential:
    """Build an adversary: linear layers, all but the last with norm, ReLU and dropout.

    Args:
        in_features: Width of its input.
        hidden_channels: Widths of the hidden layers, possibly empty.
        out_features: Width of its output. Defaults to 1.
        norm: 'BN' or None. Defaults to None.
        dropout: Probability of dropout after each hidden layer. Defaults to 0.
        spectral_norm: Divide each weight matrix by its largest singular value. Defaults to False.

    Raises:
        ValueError: If a width, ``norm`` or ``dropout`` is out of its range.
    """
    if norm not in (None, 'BN'):
        raise ValueError(f"norm must be 'BN' or None, got {norm!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f'dropout must be in [0, 1), got {dropout}')
    if not all(width > 0 for width in hidden_channels):
        raise ValueError(f'hidden_channels must be widths above 0, got {hidden_channels}')
    layers: list[nn.Module] = []
    widths = [in_features, *hidden_channels]
    for width, hidden in zip(widths, widths[1:]):
        layers.append(nn.Linear(width, hidden))
        if norm == 'BN':
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU(inplace=True))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(widths[-1], out_features))
    if spectral_norm:
        layers = [normalize_spectrum(m) if isinstance(m, nn.Linear) else m for m in layers]
    return nn.Sequential(*layers)
