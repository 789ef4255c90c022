"""What a config and a checkpoint say of a trained classifier: classes, images, weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import training_only


def pipeline_config(cfg: Config, splits: Sequence[str] = ('test', 'val')) -> list[dict]:
    """Return the config of the transforms that read and shape an image, for the test say.

    Args:
        cfg: The config.
        splits: Of these the first that has one gives it. Defaults to ``('test', 'val')``.

    Raises:
        ValueError: If the config has none.
    """
    for split in splits:
        for dataset in inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if dataset.get('pipeline'):
                steps = copy.deepcopy(list(dataset['pipeline']))
                # Data sets that hold their images need no step that reads a file.
                loads = any(type_name(step).startswith('LoadImage') for step in steps)
                return steps if loads else [_reader(cfg), *steps]
    expected = ' or '.join(f'{split}_dataloader.dataset.pipeline' for split in splits)
    raise ValueError(
        f'the config says nowhere how an image is read for the test: expected {expected}'
    )


def _reader(cfg: Config) -> dict:
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor')
    grey = len((preprocessor or {}).get('mean') or ()) == 1
    return dict(type='LoadImageFromFile', color_type='grayscale' if grey else 'color')


def class_names(meta: Mapping, cfg: Config) -> tuple[str, ...]:
    """Return the names of a checkpoint's classes, or of the config's; () where neither has any.

    Args:
        meta: The checkpoint's ``meta``.
        cfg: Its config.
    """
    known = meta.get('dataset_meta') or {}
    names = known.get('classes') or known.get('CLASSES')  # mmcls 0.x wrote it so
    for split in ('test', 'val', 'train') if not names else ():
        for dataset in inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            names = names or (dataset.get('metainfo') or {}).get('classes')
    return tuple(map(str, names)) if isinstance(names, Sequence) and names else ()


def load_all(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a checkpoint that has to hold every weight that predicts.

    Args:
        model: The model.
        weights: Of the checkpoint, see :func:`tl_plugin.reliability.checkpoints.weights_of`.
        path: Its file, for messages.

    Raises:
        ValueError: If a weight is missing, or has another shape.
    """
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


def weights_fingerprint(model: nn.Module) -> str:
    """Hash the weights of a model that predict, of those that serve training alone nothing."""
    unused, state = training_only(model), model.state_dict()
    return fingerprint({name: state[name].cpu() for name in state if not name.startswith(unused)})


def leave_out_weights(cfg: Any) -> None:
    """Make a model's config, in place, one that loads no weights while it is built or initialised.

    Args:
        cfg: Of a model, or of a part of one.
    """
    if isinstance(cfg, dict):
        if cfg.get('pretrained'):
            cfg['pretrained'] = False if cfg['pretrained'] is True else None
        init = cfg.get('init_cfg')
        inits = init if isinstance(init, (list, tuple)) else [init]
        if any(type_name(one or {}) in ('Pretrained', 'PretrainedInit') for one in inits):
            cfg.pop('init_cfg')
        cfg.pop('checkpoint_path', None)
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, (dict, list, tuple)):
            leave_out_weights(value)
