"""Builds the stock models of timm, torchvision and mmpretrain, without memory for their weights."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Callable, Iterator
from unittest import mock

import mmpretrain
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

CLASSIFIERS = ('ImageClassifier', 'TimmClassifier', 'HuggingFaceClassifier')
CONFIGS = Path(os.path.dirname(mmpretrain.__file__), '.mim', 'configs')


class NotBuilt(Exception):
    """A stock model that its own library can't build here."""


def timm_names() -> list[str]:
    """List all architectures of timm."""
    import timm

    return timm.list_models()


def torchvision_names() -> list[str]:
    """List all classification models of torchvision."""
    from torchvision import models

    return models.list_models(module=models)


def mmpretrain_names() -> list[str]:
    """List the stock configs of mmpretrain whose model is a classifier, or that can't be read."""
    paths = sorted(p for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts)
    return [str(p.relative_to(CONFIGS)) for p in paths if _is_classifier(p)]


def _is_classifier(path: Path) -> bool:
    try:
        return Config.fromfile(path).get('model', {}).get('type') in CLASSIFIERS
    except Exception:  # what is wrong with it becomes its result
        return True


def timm_model(name: str) -> nn.Module:
    """Build a timm model with its classifier."""
    import timm

    return _build(timm.create_model, name)


def torchvision_model(name: str) -> nn.Module:
    """Build a torchvision model with its classifier."""
    from torchvision import models

    return _build(models.get_model, name, weights=None)


def on_backbone(kind: str, name: str) -> nn.Module:
    """Build a classifier of mmpretrain on one of our backbones."""
    backbone = _build(MODELS.build, dict(type=kind, model_name=name))
    head = dict(type='LinearClsHead', num_classes=10, in_channels=backbone.num_features)
    return _build(MODELS.build, dict(type='ImageClassifier', backbone=backbone, head=head))


def mmpretrain_model(name: str) -> nn.Module:
    """Build the model of a stock config of mmpretrain."""
    return _build(lambda: MODELS.build(Config.fromfile(CONFIGS / name).model))


def _build(function: Callable, *args, **kwargs) -> nn.Module:
    failure = None
    # A model that computes while it's built needs real buffers, or even real weights.
    for context in (torch.device('meta'), weightless(), nullcontext()):
        try:
            with context:
                return function(*args, **kwargs)
        except Exception as error:  # any stock model may fail in its own way
            failure = error
    reason = ' '.join(str(failure).split())[:300]
    raise NotBuilt(f'{type(failure).__name__}: {reason}') from failure


@contextmanager
def weightless() -> Iterator[None]:
    """Put parameters on the meta device as modules register them.

    ``torch.device('meta')`` would do so with all tensors, and some models read values of those
    that they compute with while they're built.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and not value.is_meta:
            value = nn.Parameter(value.data.to('meta'), requires_grad=value.requires_grad)
        register(module, name, value)

    with mock.patch.object(nn.Module, 'register_parameter', register_on_meta), torch.no_grad():
        yield
