"""Write weights that timm and torchvision load, key for key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from tl_plugin.models.backbones import PooledTimmBackbone, PooledTorchvisionBackbone
from tl_plugin.models.backbones.pooled_timm import _as_tuple
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name

from .network import Trained

State = dict[str, Tensor]


def write_timm(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    """Write the folder that ``timm.create_model('local-dir:FOLDER')`` reads.

    Args:
        trained: The model.
        metadata: On it.
        path: The folder, which isn't there yet.
        pipeline: Of test images.

    Returns:
        What there is to know, in sentences.

    Raises:
        ValueError: If timm has no such network.
    """
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
    save(state, path / 'model.safetensors', texts(metadata))
    return [f"timm.create_model('local-dir:{path}', pretrained=True) loads it."]


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
    own = timm.create_model(name, num_classes=number_of_classes(trained), **options).state_dict()
    return name, options, _checked(state, own, f'timm {name}')


def write_torchvision(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    """Write the ``state_dict`` of a torchvision model as safetensors.

    Args:
        trained: The model.
        metadata: On it.
        path: The file.
        pipeline: Of test images.

    Returns:
        What there is to know, in sentences.

    Raises:
        ValueError: If torchvision has no such network.
    """
    from torchvision import models

    _is_linear(trained, 'torchvision')
    backbone = trained.model.backbone
    if isinstance(backbone, PooledTorchvisionBackbone):
        options = {k: v for k, v in backbone._options.items() if k not in ('name', 'init_weights')}
        name, prefix = backbone._options['name'], 'backbone.torchvision_model.'
        classifier = backbone._classifier
    else:
        name, options, prefix, classifier = _resnet(trained, 'torchvision'), {}, 'backbone.', 'fc'
    options['num_classes'] = number_of_classes(trained)
    own = models.get_model(name, weights=None, **options).state_dict()
    auxiliary = tuple(f'{part}.' for part in ('aux1', 'aux2', 'AuxLogits'))
    if any(key.startswith(auxiliary) for key in own):
        options['aux_logits'] = False
        own = models.get_model(name, weights=None, **options).state_dict()
    state = _with_head(trained, prefix, [classifier])
    for key, value in own.items():
        if key in state and state[key].numel() == value.numel():
            state[key] = state[key].reshape(value.shape)  # a 1x1 convolution over classes
    about = {**texts(metadata), 'architecture': name, 'options': json.dumps(options)}
    save(_checked(state, own, f'torchvision {name}'), path, about)
    given = ', '.join(f'{key}={value!r}' for key, value in options.items())
    return [f'torchvision.models.get_model({name!r}, {given}).load_state_dict(...) takes it.']


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


def number_of_classes(trained: Trained) -> int:
    """Return the number of classes of a model, with or without a head of its own."""
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


def _input_size(trained: Trained, pipeline: list[dict]) -> tuple[int, int] | None:
    from .preprocessing import read_pipeline

    try:
        return read_pipeline(pipeline).size
    except ValueError:
        return None


def save(state: State, path: Path, about: Mapping[str, str]) -> None:
    """Write tensors and texts as safetensors."""
    from safetensors.torch import save_file

    # Tensors that share memory are refused: each gets its own.
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path, about)


def texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as safetensors can hold them."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
