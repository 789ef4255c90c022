"""A trained classifier as prediction needs it: weights, names of classes, how it reads an image."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
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
from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.reliability.checkpoints import read_whole, weights_of
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import TARGET, announce_domain, training_only


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
        cfg: A config of mmpretrain, out of :func:`tl_plugin.launch.runs.load_config`.
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
    _load(model, weights_of(content, path), path)
    unused = training_only(model)
    state = model.state_dict()
    used = fingerprint({name: state[name] for name in state if not name.startswith(unused)})
    meta = content.get('meta') if isinstance(content, dict) else None
    classes = _class_names(meta or {}, cfg)
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


def pipeline_config(cfg: Config) -> list[dict]:
    """Return the config of the transforms that read and shape an image for the test.

    Raises:
        ValueError: If the config has none.
    """
    for split in ('test', 'val'):
        for dataset in inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if dataset.get('pipeline'):
                steps = copy.deepcopy(list(dataset['pipeline']))
                # Data sets that hold their images need no step that reads a file.
                loads = any(type_name(step).startswith('LoadImage') for step in steps)
                return steps if loads else [_reader(cfg), *steps]
    raise ValueError(
        'the config says nowhere how an image is read for the test: expected '
        'test_dataloader.dataset.pipeline or val_dataloader.dataset.pipeline'
    )


def _reader(cfg: Config) -> dict:
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor')
    grey = len((preprocessor or {}).get('mean') or ()) == 1
    return dict(type='LoadImageFromFile', color_type='grayscale' if grey else 'color')


def _load(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        raise ValueError(f'{path} is of another model than the config: {error}') from None
    unused = training_only(model)
    missing = [
        name
        for name in missing
        if not name.startswith(unused) and not name.endswith('num_batches_tracked')
    ]
    if missing:
        raise ValueError(
            f'{path} lacks {len(missing)} of the {len(model.state_dict())} tensors of the model '
            f'({short_list(missing, 4)}), which would predict by random weights: is it the config '
            'of this checkpoint, with the same --strategy?'
        )


def _class_names(meta: dict, cfg: Config) -> tuple[str, ...]:
    known = meta.get('dataset_meta') or {}
    names = known.get('classes') or known.get('CLASSES')  # mmcls 0.x wrote it so
    for split in ('test', 'val', 'train') if not names else ():
        for dataset in inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            names = names or (dataset.get('metainfo') or {}).get('classes')
    return tuple(map(str, names)) if isinstance(names, Sequence) and names else ()


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
