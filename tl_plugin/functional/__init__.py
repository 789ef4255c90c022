"""Maths on tensors: imports torch and nothing of ours."""

from .domain_classification import domain_accuracy, domain_classification_loss
from .dry_run import candidate_shapes, dry_run
from .gradient_reversal import gradient_reversal
from .hollow import hollow_copy
from .schedules import sigmoid_ramp

__all__ = [
    'candidate_shapes',
    'domain_accuracy',
    'domain_classification_loss',
    'dry_run',
    'gradient_reversal',
    'hollow_copy',
    'sigmoid_ramp',
]
