"""Write weights that timm, torchvision or stock mmpretrain load without this package."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS, TRANSFORMS
from torch import Tensor, nn

from tl_plugin.models.backbones import PooledTimmBackbone, PooledTorchvisionBackbone
from tl_plugin.models.backbones.pooled_timm import _as_tuple
from tl_plugin.models.necks import BottleneckNeck
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name

from .check import Agreement, compare, run_apart
from .images import Shown
from .network import Network, Reference, Trained

State = dict[str, Tensor]


def write_weights(
    trained: Trained,
    reference: Reference,
    shown: Mapping[str, Sequence[Shown]],
    metadata: Mapping[str, Any],
    path: Path,
    format: str,
    pipeline: list[dict],
) -> tuple[Agreement, list[str]]:
    """Write a model's weights in the names of a library, and compare what it predicts with them.

    Args:
        trained: The model.
        reference: The checkpoint.
        shown: Domain -> images.
        metadata: On the model.
        path: The file, or the folder of 'timm' (``config.json`` and ``model.safetensors``, what
            ``timm.create_model('local-dir:FOLDER')`` reads) and 'mmpretrain' (``config.py`` and
            ``model.pth``).
        format: 'safetensors', 'timm', 'torchvision' or 'mmpretrain'.
        pipeline: Of test images.

    Returns:
        How near the library comes to the checkpoint, and what there is to know.

    Raises:
        ValueError: If the library has no such network.
    """
    writers = {
        'safetensors': _write_safetensors,
        'timm': _write_timm,
        'torchvision': _write_torchvision,
        'mmpretrain': _write_mmpretrain,
    }
    notes = writers[format](trained, metadata, path, pipeline)
    network = Network(trained.model, None)
    # Libraries know no temperature.
    plain = copy.copy(reference)
    plain.temperature = 1.0
    run = partial(_run_here, network) if format == 'safetensors' else run_apart
    return compare(format, path, network, plain, shown, raw=False, run=run), notes


@torch.no_grad()
def _run_here(network: Network, format: str, path: Path, batches: Sequence) -> tuple[list, float]:
    """Predict with the weights of a file that no library has a network for."""
    from safetensors.torch import load_file

    loaded = copy.deepcopy(network)
    for value in loaded.model.state_dict().values():
        value.zero_()
    loaded.model.load_state_dict(load_file(path), strict=False)
    began = time.perf_counter()
    outputs = [loaded(torch.from_numpy(batch)).numpy() for batch in batches]
    return outputs, (time.perf_counter() - began) / sum(map(len, batches))


def _write_safetensors(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    about = {**_texts(metadata), 'config': json.dumps(trained.config.model.to_dict(), default=str)}
    _save(trained.weights, path, about)
    return ["The weights have the names of mmpretrain's model, whose config is in the metadata."]


def _write_timm(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    name, options, state = timm_weights(trained)
    size = _input_size(trained, pipeline)
    normalisation = metadata['normalisation']
    if normalisation['mean'] and normalisation['channels'] == 'BGR':
        raise ValueError(
            'timm gives its networks RGB images, and this one was trained on BGR ones '
            '(data_preprocessor.to_rgb=False): use another format'
        )
    about = {
        'architecture': name,
        'num_classes': len(state[_classifier(name, options)[0] + '.bias']),
        'model_args': options,
        'pretrained_cfg': {
            'label_names': metadata['classes'] or None,
            'mean': [value / 255 for value in normalisation['mean'] or [0.0]],
            'std': [value / 255 for value in normalisation['std'] or [255.0]],
            **({'input_size': [3, *size]} if size else {}),
        },
        'tl_plugin': dict(metadata),
    }
    path.mkdir()
    (path / 'config.json').write_text(json.dumps(about, indent=2) + '\n', encoding='utf-8')
    _save(state, path / 'model.safetensors', _texts(metadata))
    return [f"timm.create_model('local-dir:{path.name}', pretrained=True) loads it."]


def timm_weights(trained: Trained) -> tuple[str, dict, State]:
    """Return a model as one of timm's: name, options and weights.

    Args:
        trained: A timm or ResNet backbone with a linear head and no neck but pooling.

    Raises:
        ValueError: If timm has no such network.
    """
    import timm

    cfg = trained.config.model
    if type_name(cfg) == 'TimmClassifier':
        options = {k: v for k, v in cfg.items() if k not in _NOT_OF_TIMM}
        state = {name.removeprefix('model.'): value for name, value in trained.weights.items()}
        return options.pop('model_name'), options, state
    backbone = trained.model.backbone
    if not _is_linear(trained, 'timm'):
        raise AssertionError
    if isinstance(backbone, PooledTimmBackbone) or type_name(cfg.backbone) == 'TIMMBackbone':
        options = {
            k: v for k, v in cfg.backbone.items() if k not in (*_NOT_OF_TIMM, 'features_only')
        }
        name = options.pop('model_name')
        if 'in_channels' in options:
            options['in_chans'] = options.pop('in_channels')
        prefix = 'backbone.timm_model.'
    else:
        name, options, prefix = _resnet(trained, 'timm'), {}, 'backbone.'
    options = ConfigDict(options).to_dict()
    state = _with_head(trained, prefix, _classifier(name, options))
    own = timm.create_model(name, num_classes=_classes(trained), **options).state_dict()
    return name, options, _checked(state, own, f'timm {name}')


def _write_torchvision(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    from torchvision import models

    _is_linear(trained, 'torchvision')
    backbone = trained.model.backbone
    if isinstance(backbone, PooledTorchvisionBackbone):
        options = {k: v for k, v in backbone._options.items() if k not in ('name', 'init_weights')}
        name, prefix = backbone._options['name'], 'backbone.torchvision_model.'
        classifier = backbone._classifier
    else:
        name, options, prefix, classifier = _resnet(trained, 'torchvision'), {}, 'backbone.', 'fc'
    options['num_classes'] = _classes(trained)
    own = models.get_model(name, weights=None, **options).state_dict()
    auxiliary = tuple(f'{part}.' for part in ('aux1', 'aux2', 'AuxLogits'))
    if any(key.startswith(auxiliary) for key in own):
        options['aux_logits'] = False
        own = models.get_model(name, weights=None, **options).state_dict()
    state = _with_head(trained, prefix, [classifier])
    for key, value in own.items():
        if key in state and state[key].numel() == value.numel():
            state[key] = state[key].reshape(value.shape)  # a 1x1 convolution over classes
    about = {**_texts(metadata), 'architecture': name, 'options': json.dumps(options)}
    _save(_checked(state, own, f'torchvision {name}'), path, about)
    given = ', '.join(f'{key}={value!r}' for key, value in options.items())
    return [f'torchvision.models.get_model({name!r}, {given}).load_state_dict(...) takes it.']


def _write_mmpretrain(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    """Write a config and a checkpoint of weights, class names and nothing of the training."""
    model, weights = stock_model(trained)
    preprocessor = _plain(trained.config.model.get('data_preprocessor') or {})
    if type_name(preprocessor) in ('DomainDataPreprocessor', ''):
        preprocessor['type'] = 'ClsDataPreprocessor'
    for key in ('labelled_target', 'batch_augments'):
        preprocessor.pop(key, None)
    preprocessor.setdefault('num_classes', _classes(trained))
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
        f"mmpretrain.get_model('{path.name}/config.py', pretrained='{path.name}/model.pth') loads "
        'it; the checkpoint has weights, class names and its origin, and nothing else.'
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
        cfg = dict(type='TimmClassifier', model_name=name, num_classes=_classes(trained), **options)
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


_NOT_OF_TIMM = (
    'type',
    'pretrained',
    'checkpoint_path',
    'init_cfg',
    'data_preprocessor',
    'train_cfg',
    'loss',
    'with_cp',
    'num_classes',
)


def _is_linear(trained: Trained, library: str) -> bool:
    """Check that nothing but pooling and one linear layer follows the backbone."""
    model = trained.model
    head, neck = getattr(model, 'head', None), getattr(model, 'neck', None)
    learned = neck is not None and any(True for _ in neck.parameters())
    fits = {name for name, _ in head.named_parameters()} == {'fc.weight', 'fc.bias'}
    if learned or not fits:
        what = type(neck).__name__ if learned else type(head).__name__
        raise ValueError(
            f'{library} has no network with the {what} of this model: use safetensors, onnx or '
            'mmpretrain'
        )
    return True


def _resnet(trained: Trained, library: str) -> str:
    """Return what both libraries call a ResNet of mmpretrain, whose weights have their names."""
    backbone = trained.config.model.backbone
    if type_name(backbone) != 'ResNet':
        raise ValueError(
            f"{library} has no network with the weights of mmpretrain's {type_name(backbone)}: "
            'use safetensors, onnx or mmpretrain'
        )
    return f'resnet{backbone.depth}'


def _classes(trained: Trained) -> int:
    head = getattr(trained.model, 'head', None)
    if head is None:
        return trained.config.model.num_classes
    return head.num_classes


def _classifier(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return where timm has the last layer of a network: several in a distilled one."""
    import timm

    with torch.device('meta'):
        model = timm.create_model(name, num_classes=3, **options)
    found = model.get_classifier()
    found = found if isinstance(found, (tuple, list)) else (found,)
    names = {id(module): key for key, module in model.named_modules()}
    listed = [names[id(module)] for module in found if id(module) in names]
    return listed or list(_as_tuple(model.pretrained_cfg.get('classifier')))


def _with_head(trained: Trained, prefix: str, classifiers: Sequence[str]) -> State:
    state = {
        name.removeprefix(prefix): value
        for name, value in trained.weights.items()
        if name.startswith(prefix)
    }
    for classifier in classifiers:
        for part in ('weight', 'bias'):
            state[f'{classifier}.{part}'] = trained.weights[f'head.fc.{part}'].clone()
    return state


def _checked(state: State, own: Mapping[str, Tensor], what: str) -> State:
    """Check that weights are those of a network, key for key."""
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or extra or shapes:
        raise ValueError(
            f'the weights are not those of {what}: it also has {short_list(missing, 3)}, lacks '
            f'{short_list(extra, 3)}, and has in another shape {short_list(shapes, 3)}: use '
            'safetensors, onnx or mmpretrain'
        )
    return {name: state[name] for name in own}


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


def _input_size(trained: Trained, pipeline: list[dict]) -> tuple[int, int] | None:
    from .preprocessing import read_pipeline

    try:
        return read_pipeline(pipeline).size
    except ValueError:
        return None


def _save(state: State, path: Path, about: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    # Tensors that share memory are refused: each gets its own.
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path, about)


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}


def _plain(config: Any) -> Any:
    return ConfigDict(dict(a=copy.deepcopy(config))).to_dict()['a']
