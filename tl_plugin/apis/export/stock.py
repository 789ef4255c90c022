"""Write a config and a checkpoint that mmpretrain loads without this package."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS, TRANSFORMS
from torch import nn

from tl_plugin.models.backbones import PooledTimmBackbone, PooledTorchvisionBackbone
from tl_plugin.models.necks import BottleneckNeck
from tl_plugin.stack.options import type_name

from .libraries import State, number_of_classes, timm_weights
from .network import Trained


def write_mmpretrain(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    """Write a config and a checkpoint of weights, class names and nothing of the training."""
    model, weights = stock_model(trained)
    preprocessor = _plain(trained.config.model.get('data_preprocessor') or {})
    if type_name(preprocessor) in ('DomainDataPreprocessor', ''):
        preprocessor['type'] = 'ClsDataPreprocessor'
    for key in ('labelled_target', 'batch_augments'):
        preprocessor.pop(key, None)
    preprocessor.setdefault('num_classes', number_of_classes(trained))
    model['data_preprocessor'] = preprocessor
    _check_stock(model, 'model')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            data_preprocessor={k: v for k, v in preprocessor.items() if k != 'type'},
            test_dataloader=dict(
                batch_size=32,
                num_workers=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CustomDataset',
                    data_root='data/test',
                    pipeline=_plain(pipeline),
                    metainfo=dict(classes=list(metadata['classes'])),
                ),
            ),
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy', topk=(1,)),
        )
    )
    _check_stock(cfg.test_dataloader.to_dict(), 'test_dataloader')
    meta = dict(
        dataset_meta=dict(classes=tuple(metadata['classes'])),
        mmpretrain_version=mmpretrain.__version__,
        provenance=dict(metadata['provenance']),
    )
    path.mkdir()
    cfg.dump(path / 'config.py')
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=weights), buffer)
    (path / 'model.pth').write_bytes(buffer.getvalue())
    return [
        f"mmpretrain.get_model('{path}/config.py', pretrained='{path}/model.pth') loads it; the "
        'checkpoint has weights, class names and its origin, and nothing else.'
    ]


def stock_model(trained: Trained) -> tuple[dict, State]:
    """Return a model of mmpretrain's own components: its config, and its weights.

    Args:
        trained: The model.

    Raises:
        ValueError: If mmpretrain has no such network.
    """
    cfg = _plain(trained.config.model)
    weights = dict(trained.weights)
    if type_name(cfg) != 'AdaptationClassifier':
        return cfg, weights
    for key in ('alignments', 'regularizers', 'channels_last', 'train_cfg'):
        cfg.pop(key, None)
    cfg['type'] = 'ImageClassifier'
    head = trained.model.head
    if getattr(head, 'in_channels', None):
        cfg['head']['in_channels'] = head.in_channels
    backbone, neck = trained.model.backbone, trained.model.neck
    if isinstance(backbone, PooledTimmBackbone) and neck is None:
        name, options, state = timm_weights(trained)
        cfg = dict(
            type='TimmClassifier',
            model_name=name,
            num_classes=number_of_classes(trained),
            **options,
        )
        # The classifier names its weights as timm does.
        return cfg, state
    if isinstance(backbone, PooledTimmBackbone):
        cfg['backbone']['type'] = 'TIMMBackbone'
        cfg['backbone'].pop('checkpoint_path', None)
        cfg['backbone'].pop('pretrained', None)
    elif isinstance(backbone, PooledTorchvisionBackbone):
        name = backbone._options['name']
        if not name.startswith('resnet'):
            raise ValueError(
                f"mmpretrain has no wrapper of torchvision's {name}: use --format torchvision"
            )
        cfg['backbone'] = dict(type='ResNet', depth=int(name.removeprefix('resnet')))
        weights = _renamed(weights, {'backbone.torchvision_model.': 'backbone.'})
        cfg.setdefault('neck', dict(type='GlobalAveragePooling'))
    if isinstance(neck, BottleneckNeck):
        cfg['neck'], renamed = _linear_neck(neck)
        weights = _renamed(weights, renamed)
    return cfg, weights


def _linear_neck(neck: BottleneckNeck) -> tuple[dict, dict[str, str]]:
    """Return mmpretrain's neck of the same layers, and how its weights are called."""
    linear, *others = neck.layers
    norm = any(isinstance(layer, nn.BatchNorm1d) for layer in others)
    config = dict(
        type='LinearNeck',
        in_channels=linear.in_features,
        out_channels=linear.out_features,
        gap_dim=2,
        norm_cfg=dict(type='BN1d') if norm else None,
        act_cfg=dict(type='ReLU'),
    )
    return config, {'neck.layers.0.': 'neck.fc.', 'neck.layers.1.': 'neck.norm.'}


def _renamed(weights: State, prefixes: Mapping[str, str]) -> State:
    found = {}
    for name, value in weights.items():
        for before, after in prefixes.items():
            if name.startswith(before):
                name = after + name.removeprefix(before)
                break
        found[name] = value
    return found


def _check_stock(config: Any, where: str) -> None:
    """Refuse a config that names what stock mmpretrain doesn't have."""
    if isinstance(config, dict):
        kind = config.get('type')
        name = kind if isinstance(kind, str) else getattr(kind, '__module__', '')
        registry = MODELS if where == 'model' else TRANSFORMS
        found = registry.get(name) if isinstance(kind, str) else None
        module = getattr(found, '__module__', name)
        if module.startswith('tl_plugin'):
            raise ValueError(
                f'{where}: {kind} is of tl_plugin, and mmpretrain has no counterpart: use '
                'safetensors, onnx or torch_export'
            )
    values = config.values() if isinstance(config, dict) else config
    for value in values if isinstance(config, (dict, list, tuple)) else ():
        _check_stock(value, where)


def _plain(config: Any) -> Any:
    return ConfigDict(dict(a=copy.deepcopy(config))).to_dict()['a']
