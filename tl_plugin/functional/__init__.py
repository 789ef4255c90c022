"""Maths on tensors: imports torch and nothing of ours."""

from .agreement import Flips, prediction_flips
from .centroids import centroid_pseudo_labels
from .checks import check_bandwidths, check_images
from .cka import linear_gram, minibatch_cka, unbiased_hsic
from .class_confusion import class_confusion
from .coral import coral_loss, covariance
from .distillation import distillation_loss
from .domain_classification import (
    domain_accuracy,
    domain_classification_loss,
    several_domains_accuracy,
    several_domains_loss,
)
from .entropy import entropy_loss, marginal_entropy, prediction_entropy
from .feature_distance import feature_map_distance
from .feature_health import effective_rank, relative_spread
from .feature_norm import feature_norms, hard_feature_norm_loss, stepwise_feature_norm_loss
from .gather import gather_ranks
from .gradient_penalty import input_gradient_penalty
from .gradient_reversal import gradient_reversal
from .interpolation import check_same_network, interpolate_weights
from .kernels import gaussian_kernel, squared_distances
from .margin_disparity import log_one_minus_softmax, margin_disparity_loss
from .mmd import BANDWIDTHS, joint_maximum_mean_discrepancy, maximum_mean_discrepancy
from .multilinear_map import multilinear_map, random_multilinear_map
from .precision import full_precision
from .pseudo_labels import cosine_ramp, pseudo_label_loss, relative_threshold
from .schedules import sigmoid_ramp
from .spectral_penalty import batch_spectral_penalty, largest_singular_values
from .spectral_shrinkage import batch_spectral_shrinkage
from .starting_point import starting_point_penalty

__all__ = [
    'BANDWIDTHS',
    'Flips',
    'batch_spectral_penalty',
    'batch_spectral_shrinkage',
    'centroid_pseudo_labels',
    'check_bandwidths',
    'check_images',
    'check_same_network',
    'class_confusion',
    'coral_loss',
    'cosine_ramp',
    'covariance',
    'distillation_loss',
    'domain_accuracy',
    'domain_classification_loss',
    'effective_rank',
    'entropy_loss',
    'feature_map_distance',
    'feature_norms',
    'full_precision',
    'gather_ranks',
    'gaussian_kernel',
    'gradient_reversal',
    'hard_feature_norm_loss',
    'input_gradient_penalty',
    'interpolate_weights',
    'joint_maximum_mean_discrepancy',
    'largest_singular_values',
    'linear_gram',
    'log_one_minus_softmax',
    'margin_disparity_loss',
    'marginal_entropy',
    'maximum_mean_discrepancy',
    'minibatch_cka',
    'multilinear_map',
    'prediction_entropy',
    'prediction_flips',
    'pseudo_label_loss',
    'random_multilinear_map',
    'relative_spread',
    'relative_threshold',
    'several_domains_accuracy',
    'several_domains_loss',
    'sigmoid_ramp',
    'squared_distances',
    'starting_point_penalty',
    'stepwise_feature_norm_loss',
    'unbiased_hsic',
]
