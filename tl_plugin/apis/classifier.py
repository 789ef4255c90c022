"""A trained classifier as prediction needs it: weights, names of classes, how it reads an image."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.registry import TRANSFORMS
from torch import Tensor, nn

from tl_plugin.analysis.features import build_model
from tl_plugin.intake.trained_model import (
    class_names,
    load_all,
    pipeline_config,
    weights_fingerprint,
)
from tl_plugin.reliability.checkpoints import read_whole, weights_of
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.protocol import TARGET, announce_domain


class Outputs(NamedTuple):
    """What a classifier gives for a batch.

    Attributes:
        logits: (N, K), float32.
        features: What its last layer takes, (N, D), float32; None of a model without a head of
            mmpretrain's.
    """

    logits: Tensor
    features: Tensor | None


@dataclass(frozen=True)
class Classifier:
    """A classifier with its weights.

    Args:
        model: On its device, in eval mode.
        classes: Their names; () where neither checkpoint nor config knows them.
        cfg: Its config.
        checkpoint: Where the weights are from.
        weights: Fingerprint of the weights that predict.
    """

    model: nn.Module
    classes: tuple[str, ...]
    cfg: Config
    checkpoint: Path
    weights: str

    @torch.inference_mode()
    def __call__(self, inputs: Tensor, amp: bool = False) -> Outputs:
        """Compute logits and features of a batch of images as the pipeline gives them.

        Args:
            inputs: (N, C, H, W).
            amp: Whether in mixed precision. Defaults to False.
        """
        model = self.model
        device = next(model.parameters()).device
        with torch.autocast(device.type, enabled=amp):
            images = model.data_preprocessor(dict(inputs=inputs), training=False)['inputs']
            head = getattr(model, 'head', None)
            if not hasattr(head, 'pre_logits'):
                return Outputs(_logits(model(images, mode='tensor')), None)
            feats = model.extract_feat(images)
            features = head.pre_logits(feats)
            logits = _logits(head(feats), lambda: head.predict(feats))
        features = features if isinstance(features, Tensor) else features[-1]
        return Outputs(logits, features.flatten(1).float())

    def pipeline(self) -> Compose:
        """Build the transforms from a file's path to a packed image: those of the test."""
        with DefaultScope.overwrite_default_scope(self.cfg.get('default_scope') or 'mmpretrain'):
            return Compose([TRANSFORMS.build(step) for step in pipeline_config(self.cfg)])

    def name(self, label: int) -> str:
        """Return the name of a class, its number where it has none."""
        return self.classes[label] if self.classes else str(label)


def load_classifier(cfg: Config, checkpoint: str | Path, device: str | None = None) -> Classifier:
    """Build a config's model and load all its weights.

    Args:
        cfg: A config of mmpretrain, out of :func:`tl_plugin.launch.configs.load_config`.
        checkpoint: A file.
        device: Defaults to None: the GPU of this process if there is one.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it doesn't hold every weight of the model in its shape, names other classes
            than the model has, or the model gives an image several labels.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path.absolute()}')
    content = read_whole(path)
    model = build_model(cfg, weights=False)
    if isinstance(getattr(model, 'head', None), MultiLabelClsHead):
        raise ValueError(
            f'{type(model.head).__name__} gives an image several labels; predict is for '
            'classifiers of one class an image: use tools/test.py --out FILE.pkl'
        )
    load_all(model, weights_of(content, path), path)
    used = weights_fingerprint(model)
    meta = content.get('meta') if isinstance(content, dict) else None
    classes = class_names(meta or {}, cfg)
    width = getattr(getattr(model, 'head', None), 'num_classes', None)
    if classes and width and len(classes) != width:
        raise ValueError(
            f'{path} names {len(classes)} classes ({short_list(classes)}), but the model of the '
            f'config has {width}: is it the config of this checkpoint?'
        )
    if not classes:
        print_log(
            f'{path} names no classes (meta.dataset_meta.classes), and neither does the config: '
            'predictions are their numbers.',
            logger='current',
            level=logging.WARNING,
        )
    if device is None:
        device = get_device()
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if device == 'cuda' else device
    # A model that keeps statistics by domain predicts images of the target.
    announce_domain(model, TARGET)
    return Classifier(model.eval().to(device), classes, cfg, path, used)


def _logits(output: Any, predict: Callable[[], list] | None = None) -> Tensor:
    if isinstance(output, (tuple, list)):
        if len(output) > 1 and predict is not None:
            # Several scores for each image (Conformer): the head alone knows what it makes of them.
            scores = torch.stack([sample.pred_score for sample in predict()]).float()
            return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        output = output[-1]
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f'expected one score for each image and class, the model gives {shape}')
    return output.float()
