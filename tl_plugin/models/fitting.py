"""Build the parts of a classifier so that they fit together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import nn

from tl_plugin.engine.batch_statistics import norm_layers
from tl_plugin.engine.layers.dry_run import dry_run
from tl_plugin.reliability.class_sets import has_several_labels
from tl_plugin.stack.options import type_name

from .data_preprocessor import DomainDataPreprocessor
from .features import channel_dim, last_output
from .losses import RobustLoss
from .regularizers.early_learning import EarlyLearningRegularizer


def build_module(cfg: Any) -> nn.Module | None:
    """Build a backbone or neck, unless it is built already."""
    # A list of configs, as HRNet's necks are, builds a sequence of them.
    return cfg if cfg is None or isinstance(cfg, nn.Module) else MODELS.build(cfg)


def domain_preprocessor(cfg: Any) -> Any:
    """Turn a config of a stock preprocessor into one of a :class:`DomainDataPreprocessor`."""
    if cfg is None or isinstance(cfg, dict):
        cfg = dict(cfg or {})
        if type_name(cfg) in ('', 'ClsDataPreprocessor'):
            cfg['type'] = DomainDataPreprocessor
        return cfg
    if not isinstance(cfg, DomainDataPreprocessor):
        raise ValueError(
            'AdaptationClassifier gets pairs of batches and needs a DomainDataPreprocessor, '
            f'got {type(cfg).__name__}'
        )
    return cfg


def fit_head(head: Any, backbone: nn.Module, neck: nn.Module | None) -> tuple[Any, Any]:
    """Fill in ``in_channels`` of a head, or raise an error if the given one doesn't fit.

    Returns:
        The head; and what the head gets for a batch of two, of which shapes alone are known, or
        None where nothing had to be run for it.
    """
    if not isinstance(head, dict):
        return head, None
    head_class = MODELS.get(head['type']) if isinstance(head['type'], str) else head['type']
    parameters = inspect.signature(head_class).parameters if head_class else {}
    if 'in_channels' not in parameters:
        return head, None
    feats, given = _features(backbone, neck), head.get('in_channels')
    width = _width(feats)
    if given is None:
        return {**head, 'in_channels': width}, feats
    if isinstance(given, int) and given != width:
        raise ValueError(
            f'head.in_channels is {given}, but {type(backbone).__name__}'
            f'{" with " + type(neck).__name__ if neck is not None else ""} outputs features of '
            f'width {width}: set in_channels={width}, or leave it out'
        )
    return head, feats


def fit_neck(neck: Any, backbone: nn.Module) -> Any:
    """Fill in ``in_channels`` of a neck that takes any backbone."""
    if not isinstance(neck, dict) or neck.get('in_channels') is not None:
        return neck
    kind = MODELS.get(neck['type']) if isinstance(neck['type'], str) else neck['type']
    if not getattr(kind, 'fits_backbone', False):
        return neck
    return {**neck, 'in_channels': _width(_features(backbone, None))}


def _features(backbone: nn.Module, neck: nn.Module | None) -> Any:
    stages = nn.Sequential(backbone, *([neck] if neck is not None else []))
    return dry_run(stages, lambda network, inputs: network(inputs))


def _width(feats: Any) -> int:
    last = last_output(feats)
    return last.shape[channel_dim(last)]


def check_head(head: Any, losses: Mapping[str, Any]) -> None:
    """Raise an error for losses over classes beside a head that gives an image several of them.

    Args:
        head: The classifier's.
        losses: Alignments and regularizers by name.

    Raises:
        ValueError: If one of them, or the head's own, needs a softmax over the classes, which the
            head has not, or two of them collapse together.
    """
    reading = [name for name, loss in losses.items() if loss.needs_logits]
    if reading and has_several_labels(head):
        raise ValueError(
            f'{", ".join(reading)}: these losses need one class an image, a softmax over the '
            f'classes, and {type(head).__name__} scores each class by itself, for images of '
            'several: use losses on features (dann, dan, deep_coral, afn, l2_sp, delta), or a head '
            'such as LinearClsHead'
        )
    if not isinstance(getattr(head, 'loss_module', None), RobustLoss):
        return
    early = [name for name, loss in losses.items() if isinstance(loss, EarlyLearningRegularizer)]
    if early:
        raise ValueError(
            f'{early[0]} weighs against cross-entropy, and RobustLoss has smaller gradients, so '
            'that together they end with one class for all images: leave out one of the strategies '
            'early_learning and robust_loss; label_smoothing, co_teaching and weighted_labels go '
            'with either'
        )
    if has_several_labels(head):
        raise ValueError(
            f'RobustLoss takes the softmax over the classes, for images of one class, and '
            f'{type(head).__name__} scores each class by itself, for images of several: leave out '
            'the strategy robust_loss, or use a head such as LinearClsHead'
        )


def interpolates(model: Any) -> bool:
    """Return whether source images take a second pass, for scores that are interpolated.

    Args:
        model: An :class:`AdaptationClassifier` with its alignments.

    Raises:
        ValueError: If an alignment asks for it, and the head's loss isn't one of its scores alone,
            or another option leaves nothing to interpolate.
    """
    names = model.alignments.interpolating
    if not names:
        return False
    where = f'model.alignments.{names[0]}.logit_interpolation'
    head = type(model.head)
    names = ('loss', '_get_loss')
    if any(getattr(head, name, None) is not getattr(ClsHead, name) for name in names):
        raise ValueError(
            f'{where}: the source learns from interpolated scores, and {head.__name__} computes '
            'its loss otherwise: use LinearClsHead, or set it to False'
        )
    if model.dsbn is not None:
        raise ValueError(
            f'{where} mixes scores by joint batch statistics with those by the source alone, and '
            'model.domain_specific_bn=True has the latter in any case: set one of the two to False'
        )
    if model.sharpness_rho:
        raise ValueError(
            f'{where} and sdat (model.sharpness_rho) each change the classification loss by a '
            'second pass: take one of the two'
        )
    found = bool(norm_layers(model))
    if not found:
        print_log(
            f'{where} changes nothing here: {type(model.backbone).__name__} has no batch norm.',
            logger='current',
        )
    return found
