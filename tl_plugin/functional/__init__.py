"""Maths on tensors: imports torch and nothing of ours."""

from .domain_classification import domain_accuracy, domain_classification_loss
from .dry_run import dry_run, input_channels
from .gradient_reversal import gradient_reversal
from .schedules import sigmoid_ramp

__all__ = [
    'domain_accuracy',
    'domain_classification_loss',
    'dry_run',
    'gradient_reversal',
    'input_channels',
    'sigmoid_ramp',
]
