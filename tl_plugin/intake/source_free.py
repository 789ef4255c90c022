"""Write a config from a trained model and target images alone, where the source isn't at hand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.registry import MODELS

from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.checkpoints import read_whole, weights_of
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name

from .any_data import read_data, without_labels
from .config_writer import (
    CONFIG_NAME,
    EVALUATION_LOOPS,
    LISTS,
    dataset_config,
    evaluation,
    even_batches,
    labelled_share,
    loader_config,
    stock_config,
)
from .images import TRAIN, DomainImages
from .prepared import prepare_target
from .trained_model import (
    class_names,
    leave_out_weights,
    load_all,
    pipeline_config,
    weights_fingerprint,
)

EPOCHS, BATCH_SIZE = 15, 32
#: The model is trained already: share of the rate that its config trains at.
RATE = 0.1
#: What an ``AdaptationClassifier`` has beside a stock classifier that prediction depends on.
_KEPT = ('domain_specific_bn', 'channels_last')


def config_from_checkpoint(
    config: str | Path,
    checkpoint: str | Path,
    target: str | Path,
    folder: Path,
    unlabelled: bool = False,
    seed: int = 0,
) -> Path:
    """Write a config that adapts a trained model to a target without source images.

    The model, its weights, how it reads images and its optimizer come from the config and the
    checkpoint; the rest is written here. Labels of the target serve to measure alone.

    Args:
        config: Of the model, a file or ``package::path``.
        checkpoint: Its weights.
        target: A folder of images or an annotation file, see
            :func:`tl_plugin.intake.any_data.read_data`.
        folder: Where to write.
        unlabelled: Whether to ignore the target's labels and folder names. Defaults to False.
        seed: Seed of the division and of the runs. Defaults to 0.

    Returns:
        The config's path. ``val_dataloader`` and ``test_dataloader`` hold the target's images
        without labels, and say how they are read; the domain ``source`` is not evaluated.

    Raises:
        FileNotFoundError: If there is no checkpoint, or there are no images.
        ValueError: If the checkpoint isn't of the config, names no classes where the target has
            some, or the model gives an image several labels.
    """
    cfg = load_config(config)
    path = Path(checkpoint).expanduser().absolute()
    classes, named, weights = _check_model(cfg, path)
    images = read_data(target)
    images = without_labels(images) if unlabelled else images
    if not named:
        _check_numbers(images, classes, path)
    if images.datasets:
        raise ValueError(
            f'{target} is a config: without source images give those of the target as a folder or '
            'an annotation file'
        )
    data, notes = prepare_target(images, classes, f'the model in {path}', seed)
    train = pipeline_config(cfg, ('train', 'test', 'val'))
    test = pipeline_config(cfg)
    size = even_batches(len(data.split(TRAIN)), BATCH_SIZE, least=4)

    def dataset(split: str, labels: bool, pipeline: list, name: str = '') -> dict:
        list_file = folder / LISTS / f'target_{split}{name}.txt'
        return dataset_config(data, data.split(split), classes, pipeline, list_file, labels)

    written = stock_config(EPOCHS)
    written.model = _plain_model(cfg)
    if cfg.get('data_preprocessor') is not None:
        written.data_preprocessor = cfg.data_preprocessor
    written.optim_wrapper = _slower(cfg, written.optim_wrapper, size)
    written.load_from, written.randomness = str(path), dict(seed=seed, deterministic=False)
    # Another checkpoint under the same name is another ladder.
    written.weights_of_load_from = weights
    written.train_dataloader = loader_config(dataset(TRAIN, False, train), size, shuffle=True)
    for split in EVALUATION_LOOPS:
        known = labelled_share(data.split(split), classes)
        stock = dataset(split, False, test, '_images')
        written[f'{split}_dataloader'] = loader_config(stock, size, shuffle=False)
        loop = evaluation(split, known, dataset(split, known > 0, test))
        written[f'{split}_cfg'] = {**loop, 'source': False}
        written[f'{split}_evaluator'] = dict(type='Accuracy', topk=(1,))
    target_train = dataset(TRAIN, False, train)
    target_train.pop('pipeline')  # inherited from whichever loader it is merged over
    written.ladder = dict(
        source_free=True,
        target_dataloader=dict(dataset=target_train),
        notes=[*notes, *_notes(path, classes, named)],
    )
    imports = cfg.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = dict.fromkeys([*imports['imports'], 'tl_plugin'])
    written.custom_imports = dict(imports=list(names), allow_failed_imports=False)
    folder.mkdir(parents=True, exist_ok=True)
    written.dump(folder / CONFIG_NAME)
    return folder / CONFIG_NAME


def _notes(path: Path, classes: Sequence[str], named: bool) -> list[str]:
    notes = [
        f'There are no source images: of the source is known what {path.name} and the files beside '
        'it hold. How much of it a rung forgets is not measured.'
    ]
    if not named:
        notes.append(
            f'Neither {path.name} nor its config names the {len(classes)} classes: they are called '
            f'{short_list(classes)}.'
        )
    return notes


def _check_numbers(images: DomainImages, classes: Sequence[str], path: Path) -> None:
    """Refuse labels of a target that can't be those of a model whose classes have no names."""
    if images.classes and not {*images.classes} & {*classes}:
        raise ValueError(
            f'the target has the classes {short_list(images.classes)}, and neither {path} nor its '
            f'config says which of its {len(classes)} outputs these are: name them in the config '
            'in the order of its training, test_dataloader = dict(dataset=dict(metainfo=dict('
            'classes=[...]))), or leave labels and folder names out: --unlabelled'
        )


def _check_model(cfg: Config, path: Path) -> tuple[tuple[str, ...], bool, str]:
    """Check that a checkpoint is of a config.

    Returns:
        Its classes, whether these are names and not numbers, and the hash of its weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    content = read_whole(path)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        model_cfg = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor') is not None:
            model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        leave_out_weights(model_cfg)
        model = MODELS.build(model_cfg)
    head = getattr(model, 'head', None)
    if isinstance(head, MultiLabelClsHead) or not hasattr(model, 'extract_feat'):
        raise ValueError(
            f'the ladder is for classifiers of one class an image, this is a '
            f'{type(model).__name__} with a {type(head).__name__}'
        )
    load_all(model, weights_of(content, path), path)
    width = getattr(head, 'num_classes', None)
    meta = content.get('meta') if isinstance(content, dict) else None
    classes = class_names(meta or {}, cfg)
    if classes and width and len(classes) != width:
        raise ValueError(
            f'{path} names {len(classes)} classes ({short_list(classes)}), but the model of the '
            f'config has {width}: is it the config of this checkpoint?'
        )
    if not classes and not width:
        raise ValueError(
            f'neither {path} nor its config names classes: give test_dataloader.dataset '
            'metainfo=dict(classes=[...])'
        )
    return classes or tuple(map(str, range(width))), bool(classes), weights_fingerprint(model)


def _plain_model(cfg: Config) -> dict:
    """Return the model without what served its training, and without other weights."""
    model = cfg.model.to_dict()
    leave_out_weights(model)
    kind = model['type']
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not issubclass(kind, ImageClassifier):
        return model
    kept = {key: model[key] for key in _KEPT if model.get(key)}
    own = set(inspect.signature(ImageClassifier.__init__).parameters) - {'train_cfg', 'self'}
    plain = {key: value for key, value in model.items() if key in own}
    return {'type': 'AdaptationClassifier' if kept else 'ImageClassifier', **plain, **kept}


def _slower(cfg: Config, stock: dict, batch_size: int) -> dict:
    """Return the config's optimizer at a tenth of its rate, for batches of another size.

    The rate follows the size of the batch, linearly for SGD (Goyal et al., arXiv 1706.02677), by
    its root for optimizers that normalise gradients (Malladi et al., NeurIPS 2022, arXiv
    2205.10287), where the config says for which size it was chosen.
    """
    found = copy.deepcopy(cfg.get('optim_wrapper') or stock)
    optimizer = found.get('optimizer') or {}
    if 'lr' not in optimizer:
        return copy.deepcopy(stock)
    before: Any = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    before = before or (cfg.get('train_dataloader') or {}).get('batch_size') or batch_size
    share = batch_size / before
    optimizer['lr'] *= RATE * (share if type_name(optimizer) == 'SGD' else share**0.5)
    return found
