"""Write a complete config from data and a backbone."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope

from tl_plugin.datasets.wrappers import dataset_class, with_indices
from tl_plugin.ladder.rungs import DEFAULT_RUNGS, LABELLED_TARGET

from .any_data import read_data, without_labels
from .backbone_choice import ModelChoice, check_backbone, check_weights, choose_model
from .images import TEST, TRAIN, VAL, DomainImages, ImageItem
from .label_corrections import correct_domains
from .prepared import PreparedData, prepare_data

CONFIG_NAME = 'config.py'
LISTS = 'lists'
#: Split -> the loop that measures both domains on it.
EVALUATION_LOOPS = {VAL: 'DomainValLoop', TEST: 'DomainTestLoop'}
#: Steps that a rung on few labelled images trains for at least; the warm-up of a learning rate
#: takes 100 of them.
_LEAST_STEPS = 300
_BASE = 'mmpretrain::_base_/default_runtime.py'


def config_from_data(
    source: str,
    target: str,
    backbone: str,
    folder: Path,
    target_labels: str | None = None,
    checkpoint: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    unlabelled: bool = False,
    labels: str | None = None,
) -> Path:
    """Write a config from the options of a command line.

    Args:
        source: The labelled data, see :func:`tl_plugin.intake.any_data.read_data`.
        target: The data of the target, in any of the same forms.
        backbone: See :func:`tl_plugin.intake.backbone_choice.choose_model`.
        folder: Where to write.
        target_labels: A number, so many labels of each class, or labelled data. None: no labels.
        checkpoint: Local weights of the backbone.
        image_size: Side of the images; None takes the model's own.
        seed: Seed of the division and of the run. Defaults to 0.
        unlabelled: Whether to ignore the target's labels and folder names. Defaults to False.
        labels: Table of corrected labels of either domain, see
            :func:`tl_plugin.intake.label_corrections.read_corrections`. Defaults to None.

    Returns:
        The config's path. Its ``ladder.notes`` say what was left out or read otherwise.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If the data or the backbone can't be used; says why.
    """
    check_backbone(backbone, checkpoint)
    few = None
    if target_labels is not None:
        few = int(target_labels) if str(target_labels).isdigit() else read_data(target_labels)
    domain = read_data(target)
    domain = without_labels(domain) if unlabelled else domain
    domains = [read_data(source), domain, few]
    if labels is not None:
        domains = correct_domains(domains, labels, folder)
    data = prepare_data(*domains, seed=seed)
    choice = choose_model(backbone, len(data.classes), checkpoint)
    check_weights(choice)
    return write_config(data, choice, folder, image_size, seed=seed)


def write_config(
    data: PreparedData,
    choice: ModelChoice,
    folder: Path,
    image_size: int | None = None,
    batch_size: int = 32,
    epochs: int = 20,
    num_workers: int = 2,
    seed: int = 0,
) -> Path:
    """Write a config that mmpretrain's own tools and those of this package run as it is.

    The folder gets ``config.py`` and, for data that aren't mmpretrain data sets already,
    ``lists/*.txt``: the images of each split, in the format of mmpretrain's ``CustomDataset``. The
    config trains and validates on the source and measures the target beside it; ``ladder`` names
    the target's training images and the few labelled ones, and has the notes on the data.

    Args:
        data: Source and target.
        choice: The model.
        folder: Where to write.
        image_size: Side of the images; None takes the model's own.
        batch_size: Number of images a step at most. All batches of an epoch have about the same
            size, as the batch statistics of a small last batch would harm batch normalization; an
            epoch has at least four. Defaults to 32.
        epochs: Number of training epochs. Defaults to 20.
        num_workers: Number of processes that load images. Defaults to 2.
        seed: Seed of the run. Defaults to 0.

    Returns:
        The config's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cfg = choice.cfg or stock_config(epochs)
    train, test = pipelines(choice, image_size)
    batch_size = even_batches(len(data.source.split(TRAIN)), batch_size, least=4)

    def dataset(
        domain: str, split: str, pipeline: list, items=None, labels: bool = True, name: str = ''
    ) -> dict:
        whole = getattr(data, domain)
        items = whole.split(split) if items is None else items
        list_file = folder / LISTS / f'{domain}_{name or split}.txt'
        return dataset_config(whole, items, data.classes, pipeline, list_file, labels)

    def loader(content: dict, shuffle: bool) -> dict:
        return loader_config(content, batch_size, shuffle, num_workers)

    cfg.model, cfg.data_preprocessor = choice.model, choice.data_preprocessor
    cfg.load_from, cfg.randomness = None, dict(seed=seed, deterministic=False)
    cfg.train_dataloader = loader(dataset('source', TRAIN, train), shuffle=True)
    for split in EVALUATION_LOOPS:
        known = labelled_share(data.target.split(split), data.classes)
        cfg[f'{split}_dataloader'] = loader(dataset('source', split, test), shuffle=False)
        cfg[f'{split}_cfg'] = evaluation(
            split, known, dataset('target', split, test, labels=known > 0)
        )
        cfg[f'{split}_evaluator'] = dict(type='Accuracy', topk=(1,))
    ladder = dict(target_dataloader=dict(dataset=dataset('target', TRAIN, train, labels=False)))
    if not (data.source.datasets or data.target.datasets):
        # Inherited from whichever loader it is merged over: augmented in training, not in a test.
        ladder['target_dataloader']['dataset'].pop('pipeline')
    if data.few:
        ladder['labelled_target_dataloader'] = dict(
            batch_size=even_batches(len(data.few), batch_size, least=2),
            dataset=dataset('target', TRAIN, train, data.few, name='few'),
        )
        if choice.cfg is None:
            ladder['rungs'] = _enough_epochs(len(data.few), ladder, epochs)
    notes, count = list(data.notes), len(data.target.split(TRAIN))
    if count < batch_size:
        notes.append(
            f'The target has {count} training images, fewer than a batch of {batch_size}: each '
            'step sees all of them.'
        )
    if notes:
        ladder['notes'] = notes
    cfg.ladder = ladder
    cfg.setdefault('custom_imports', dict(imports=['tl_plugin'], allow_failed_imports=False))
    path = folder / CONFIG_NAME
    cfg.dump(path)
    return path


def labelled_share(items: Sequence[ImageItem], classes: Sequence[str]) -> float:
    """Return the share of images that have a label of these classes."""
    return sum(item.label in classes for item in items) / max(len(items), 1)


def evaluation(split: str, labelled: float, dataset: dict) -> dict:
    """Return the config of a loop that measures the target, by metrics that its labels allow.

    Args:
        split: A key of :data:`EVALUATION_LOOPS`.
        labelled: Share of its images that have a label.
        dataset: Config of its data set.
    """
    settings = dict(type=EVALUATION_LOOPS[split], dataloaders=dict(target=dict(dataset=dataset)))
    if not labelled:
        settings['evaluators'] = dict(target=dict(type='TargetValidator'))
    elif labelled < 1:
        metric = dict(type='LabelledOnly', metric=dict(type='Accuracy', topk=(1,)))
        settings['evaluators'] = dict(target=metric)
    return settings


def even_batches(number: int, batch_size: int, least: int) -> int:
    """Return the size of batches that divide so many images evenly, none of them one image alone.

    >>> even_batches(35, 32, least=2), even_batches(65, 32, least=4), even_batches(13, 32, least=4)
    (18, 17, 5)
    >>> even_batches(3, 32, least=4), even_batches(1, 32, least=4)
    (3, 1)
    """
    batches = max(-(-number // batch_size), least)
    sizes = range(max(-(-number // batches), 2), number)
    # A batch of one image has no variance, which batch norm divides by.
    return next((size for size in sizes if number % size != 1), number)


def _enough_epochs(number: int, ladder: dict, epochs: int) -> dict:
    """Return rungs on few labels, with epochs enough for a head to learn from few batches."""
    batches = -(-number // ladder['labelled_target_dataloader']['batch_size'])
    epochs = max(epochs, -(-_LEAST_STEPS // batches))
    options = dict(
        train_cfg=dict(max_epochs=epochs, val_interval=max(epochs // 10, 1)),
        default_hooks=dict(checkpoint=dict(interval=epochs)),
    )
    rungs = [rung for rung in DEFAULT_RUNGS if rung.data == LABELLED_TARGET]
    return {rung.name: dict(options={**rung.options, **options}) for rung in rungs}


def loader_config(dataset: dict, batch_size: int, shuffle: bool, num_workers: int = 2) -> dict:
    """Return the config of a loader.

    Args:
        dataset: Config of the data set.
        batch_size: Images of a batch.
        shuffle: Whether the order is drawn.
        num_workers: Processes that load images. Defaults to 2.
    """
    return dict(
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
        dataset=dataset,
    )


def dataset_config(
    domain: DomainImages,
    items: Sequence[ImageItem],
    classes: Sequence[str],
    pipeline: list,
    list_file: Path,
    labels: bool = True,
) -> dict:
    """Write the data set config of some images of a domain.

    Args:
        domain: The domain.
        items: Some of its images, of one split.
        classes: Names of all classes, in the model's order.
        pipeline: Pipeline of images read from files; data sets of a config keep their own.
        list_file: The file that lists the paths of the images.
        labels: Whether to write labels, -1 for an image of none of ``classes``. Defaults to True.
    """
    if domain.datasets:
        return _limited_dataset(domain, items, classes)
    list_file.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in enumerate(classes)}
    lines = []
    for item in items:
        line = str(Path(item.name).absolute())
        lines.append(f'{line} {numbers.get(item.label, -1)}' if labels else line)
        if '\n' in line or '\r' in line:
            raise ValueError(f'rename files with line breaks in their names: {line!r}')
    list_file.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return _complete(
        dict(
            type='CustomDataset',
            data_root='',
            ann_file=str(list_file.absolute()),
            with_label=labels,
            metainfo=dict(classes=list(classes)),
            pipeline=pipeline,
        )
    )


def _limited_dataset(
    domain: DomainImages, items: Sequence[ImageItem], classes: Sequence[str]
) -> dict:
    """Return a data set of the domain's config, limited to some images."""
    if domain.labelled and tuple(domain.classes) != tuple(classes):
        raise ValueError(
            f'{domain.origin} numbers its classes as {", ".join(domain.classes)}, the source as '
            f'{", ".join(classes)}: give its data set metainfo=dict(classes=...) in that order, or '
            'an annotation file, whose classes go by name'
        )
    numbers = defaultdict(list)
    for item in items:
        numbers[item.place[0]].append(item.place[1])
    parts = []
    for place, chosen in numbers.items():
        config, chosen = domain.datasets[place], sorted(chosen)
        whole = chosen == list(range(domain.sizes[place]))
        parts.append(_complete(config if whole else with_indices(config, chosen)))
    return parts[0] if len(parts) == 1 else dict(type='ConcatDataset', datasets=parts)


def _complete(config: dict) -> dict:
    """Write out the arguments that a data set leaves at their defaults.

    The target's data set inherits what it doesn't set from the source's of the same type; the list
    of files and the ``indices`` of the source must not be inherited.
    """
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        kind = dataset_class(config)
    parameters = inspect.signature(kind.__init__).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty and name != 'lazy_init'
    }
    takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if issubclass(kind, BaseDataset) and takes_more:
        defaults = {'indices': None, 'filter_cfg': None, **defaults}
    return {**defaults, **config}


def pipelines(choice: ModelChoice, image_size: int | None = None) -> tuple[list, list]:
    """Return the pipelines of training and of test images: the model's own, or usual ones."""
    if choice.train_pipeline and choice.test_pipeline and image_size is None:
        return choice.train_pipeline, choice.test_pipeline
    size = image_size or choice.image_size
    train = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.4, 1.0)),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    test = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=round(size * 8 / 7), edge='short'),
        dict(type='CenterCrop', crop_size=size),
        dict(type='PackInputs'),
    ]
    return train, test


def stock_config(epochs: int) -> Config:
    """Return a config without model and data: SGD with a falling rate, mmpretrain's runtime.

    Args:
        epochs: Of its training.
    """
    from tl_plugin.launch.configs import config_file

    cfg = Config.fromfile(config_file(_BASE))
    cfg.merge_from_dict(
        dict(
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
            ),
            param_scheduler=[
                dict(type='CosineAnnealingLR', eta_min_ratio=0.01, convert_to_iter_based=True)
            ],
            train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=max(epochs // 10, 1)),
            default_hooks=dict(
                logger=dict(interval=20), checkpoint=dict(interval=epochs, max_keep_ckpts=1)
            ),
        )
    )
    return cfg
