"""Write the model part of a config from the name of a backbone, as in ``timm:resnet18``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.models.backbones.pooled import check_name
from tl_plugin.reliability.checkpoints import read_whole, weights_of
from tl_plugin.reliability.initial_weights import read_pretrained
from tl_plugin.stack.messages import short_list

FORMS = 'timm:NAME, torchvision:NAME, mmpretrain:NAME or a config (.py, or package::path)'
DEFAULT_SIZE = 224
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@dataclass(frozen=True)
class ModelChoice:
    """The model part of a config.

    Args:
        model: Config of an ``ImageClassifier``.
        data_preprocessor: Config of its data preprocessor.
        image_size: Side of its input images, in pixels. Defaults to 224.
        train_pipeline: The model's own training pipeline. Defaults to None, a usual one.
        test_pipeline: The model's own test pipeline. Defaults to None, a usual one.
        cfg: The config that the model was taken from. Defaults to None.
    """

    model: dict
    data_preprocessor: dict
    image_size: int = DEFAULT_SIZE
    train_pipeline: list | None = None
    test_pipeline: list | None = None
    cfg: Config | None = None


def choose_model(backbone: str, num_classes: int, checkpoint: str | None = None) -> ModelChoice:
    """Write the model part of a config.

    Args:
        backbone: ``timm:NAME``, ``torchvision:NAME``, ``mmpretrain:NAME`` (from mmpretrain's model
            index), or a config whose model and pipelines are taken.
        num_classes: Number of classes of the head.
        checkpoint: Local weights. None lets timm, torchvision and mmpretrain download their
            ImageNet weights, and leaves a config as it is.

    Raises:
        ValueError: If ``backbone`` has another form, or the library has no such model.
    """
    check_backbone(backbone)
    if checkpoint is not None and '://' not in checkpoint:
        checkpoint = str(Path(checkpoint).absolute())  # the config is run from other folders, too
    if _is_config(backbone):
        from tl_plugin.launch.configs import load_config

        return _from_config(load_config(backbone), num_classes, checkpoint)
    makers = {'timm': _timm, 'torchvision': _torchvision, 'mmpretrain': _mmpretrain}
    library, _, name = backbone.partition(':')
    return makers[library](name, num_classes, checkpoint)


def check_backbone(backbone: str | None, checkpoint: str | None = None) -> None:
    """Refuse a backbone that there isn't, before images are read for it.

    Args:
        backbone: As in :func:`choose_model`; None is none.
        checkpoint: Its local weights. Defaults to None.

    Raises:
        ValueError: If ``backbone`` has another form, or the library has no such model.
        FileNotFoundError: If there is no such config, or no file of weights.
    """
    if backbone is None:
        return
    library, _, name = backbone.partition(':')
    if _is_config(backbone):
        from tl_plugin.launch.configs import config_file

        config_file(backbone)
    elif library not in ('timm', 'torchvision', 'mmpretrain') or not name:
        raise ValueError(f'--backbone is {backbone!r}, expected {FORMS}')
    elif library == 'timm':
        import timm

        if ':' not in name and not timm.is_model(name):
            check_name(name.split('.')[0], timm.list_models(), 'timm')
    elif library == 'torchvision':
        from torchvision import models

        check_name(name, models.list_models(module=models), 'torchvision.models')
    else:
        from mmpretrain.apis import list_models

        check_name(name, list_models(), 'mmpretrain')
    if checkpoint is not None and '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f'--checkpoint: no weights at {Path(checkpoint).absolute()}')


def check_weights(choice: ModelChoice) -> None:
    """Load the weights that a backbone begins with, once before all runs.

    Args:
        choice: The model.

    Raises:
        ValueError: If they don't fit, or can't be downloaded.
    """
    config = choice.model['backbone']
    init = config.get('init_cfg')
    local = isinstance(init, dict) and '://' not in str(init.get('checkpoint', '://'))
    pooled = str(config['type']).startswith('Pooled')
    if not (local or pooled):
        return
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(config)
    if not pooled:
        given = read_pretrained(init, '--checkpoint')
        own = backbone.state_dict()
        # Counters of batch norms have the same shape everywhere.
        if not any(n in own and own[n].shape == v.shape and v.ndim for n, v in given.items()):
            raise ValueError(
                f'nothing in {init["checkpoint"]} fits {type(backbone).__name__}: the network has '
                f'{short_list(list(own), 3)}, the file {short_list(list(given), 3)}'
            )
        return
    try:
        if backbone.initial_weights:
            backbone.load_initial_weights()
    except OSError as error:
        raise ValueError(
            f'the weights of {config["model_name"]} could not be downloaded: '
            f'{str(error).splitlines()[0]} Give local ones, --checkpoint FILE'
        ) from error


def _is_config(backbone: str) -> bool:
    return backbone.endswith('.py') or '::' in backbone


def _timm(name: str, num_classes: int, checkpoint: str | None) -> ModelChoice:
    import timm

    cfg = None if ':' in name else timm.get_pretrained_cfg(name)
    weights = dict(checkpoint_path=checkpoint) if checkpoint else dict(pretrained=True)
    scale = _IMAGENET
    if cfg:  # timm's are for values from 0 to 1
        scale = {key: [255 * value for value in getattr(cfg, key)] for key in ('mean', 'std')}
    size = cfg.input_size[-1] if cfg and cfg.input_size else DEFAULT_SIZE
    backbone = dict(type='PooledTimmBackbone', model_name=name, **weights)
    return _pooled(backbone, num_classes, scale, size)


def _torchvision(name: str, num_classes: int, checkpoint: str | None) -> ModelChoice:
    from torchvision import models

    weights = dict(checkpoint_path=checkpoint) if checkpoint else dict(weights='DEFAULT')
    size = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    backbone = dict(type='PooledTorchvisionBackbone', model_name=name, **weights)
    return _pooled(backbone, num_classes, _IMAGENET, size)


def _pooled(backbone: dict, num_classes: int, scale: dict, size: int) -> ModelChoice:
    bare = {key: backbone[key] for key in ('type', 'model_name')}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        width = MODELS.build(bare).num_features  # built without weights
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=width, topk=(1,))
    return ModelChoice(
        # An ImageClassifier that computes with the channels innermost: a third faster on a CPU.
        model=dict(type='AdaptationClassifier', channels_last=True, backbone=backbone, head=head),
        data_preprocessor=dict(num_classes=num_classes, to_rgb=True, **scale),
        image_size=size,
    )


def _mmpretrain(name: str, num_classes: int, checkpoint: str | None) -> ModelChoice:
    from mmpretrain.apis.model import ModelHub

    found = ModelHub.get(name)
    checkpoint = checkpoint or found.weights
    if checkpoint is None:
        raise ValueError(f'mmpretrain has no weights for {name!r}: give some with --checkpoint')
    return _from_config(found.config, num_classes, checkpoint)


def _from_config(cfg: Config, num_classes: int, checkpoint: str | None) -> ModelChoice:
    cfg = copy.deepcopy(cfg)
    model = cfg.model.to_dict()
    if 'head' not in model:
        raise ValueError(
            f"the config's model, {model.get('type')}, has no head: expected a classifier"
        )
    # The checkpoint's own head has other classes: only its backbone is loaded, as `init_cfg`.
    if checkpoint is not None:
        _start_from(checkpoint, model['backbone'])
    # Accuracy among the first five of few classes means nothing.
    model['head'].update(num_classes=num_classes, topk=(1,))
    preprocessor = model.pop('data_preprocessor', None) or cfg.get('data_preprocessor') or {}
    preprocessor = dict(preprocessor, num_classes=num_classes)
    pipelines = []
    for split in ('train', 'test'):
        datasets = inner_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
        pipelines.append(copy.deepcopy(datasets[0].get('pipeline')) if datasets else None)
    return ModelChoice(model, preprocessor, DEFAULT_SIZE, *pipelines, cfg=cfg)


def _start_from(checkpoint: str, backbone: dict) -> None:
    """Make a backbone begin with the weights of a checkpoint, which may be a whole classifier's."""
    if str(backbone['type']).startswith('Pooled'):
        for key in ('pretrained', 'weights', 'init_cfg'):
            backbone.pop(key, None)
        backbone['checkpoint_path'] = checkpoint
        return
    backbone['init_cfg'] = init = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone')
    if '://' not in checkpoint and Path(checkpoint).is_file():
        names = weights_of(read_whole(checkpoint), checkpoint)
        tops = ('backbone', 'module.backbone', 'module')
        init['prefix'] = next((t for t in tops if any(n.startswith(f'{t}.') for n in names)), '')
