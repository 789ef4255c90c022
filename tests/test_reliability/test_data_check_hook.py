"""Data that don't fit the run are named before they do harm."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mmengine.runner import Runner

from tests.toy import target, toy_config, train
from tl_plugin.datasets.bad_data import naming_bad_data

HOOKS = [dict(type='ExactResumeHook'), dict(type='DataCheckHook')]
CLASSES = ('red', 'green', 'blue')


def run(work_dir, options=None, strategies=(), hooks=HOOKS, **kwargs):
    cfg = toy_config(work_dir, strategies, options, **{'max_epochs': 1, **kwargs})
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
    with naming_bad_data():  # as tools/train.py does
        return train(cfg)


def named(*names):
    return dict(classes=names)


@pytest.mark.parametrize(
    ('options', 'strategies', 'message'),
    [
        (
            {
                'model.head.num_classes': 2,
                'train_dataloader.dataset.metainfo': named(),
                'val_dataloader.dataset.metainfo': named(),
            },
            (),
            r'label 2 of image \d+ in ToyDataset.* out of range: the head has 2 classes',
        ),
        (
            {
                'model.head.num_classes': 2,
                'train_dataloader.dataset.metainfo': named(),
                'val_dataloader.dataset.metainfo': named(),
                **target(metainfo=named()),
            },
            ('dann',),
            r'label 2 of the source image image \d+ in Toy',
        ),
    ],
)
def test_labels_out_of_range_are_named(options, strategies, message, tmp_path):
    pack = [dict(type='PackInputs', meta_keys=('img_id',))]
    with pytest.raises(ValueError, match=message):
        run(tmp_path, {**options, 'train_dataloader.dataset.pipeline': pack}, strategies)


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize('strategies', [(), ('dann',)])
def test_one_hot_labels_of_other_classes_are_named(strategies, inside, tmp_path):
    augments = dict(type='Mixup', alpha=0.8)
    options = {'data_preprocessor.num_classes': 10, 'model.train_cfg': dict(augments=augments)}
    if strategies:
        options.update(target())
    if inside:
        options['model.data_preprocessor'] = dict(num_classes=10, mean=[9.0] * 3, std=[9.0] * 3)
    with pytest.raises(ValueError, match='and the head has 3 classes: set') as error:
        run(tmp_path, options, strategies)
    setting, value = str(error.value).split(': set ')[1].split('=')
    assert setting.startswith('model.') == inside
    run(tmp_path, {**options, setting: int(value)}, strategies)


def test_labels_out_of_range_in_validation_are_no_wrong_answers(tmp_path):
    options = {
        'model.head.num_classes': 2,
        'val_dataloader.dataset.metainfo': named(),
        'train_dataloader.dataset.metainfo': named(),
        'train_dataloader.dataset.indices': [0, 1, 3, 4],
    }
    with pytest.raises(ValueError, match=r'label 2 of .* in ToyDataset.* 0 to 1'):
        run(tmp_path, options)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('red', 'green', 'cyan'), 'missing in train_dataloader: cyan; missing in val_dataloader:'),
        (('green', 'red', 'blue'), 'number 0 is red in train_dataloader and green in val_'),
        (('red', 'green'), 'the val_dataloader data has 2 classes .* the head 3'),
    ],
)
def test_training_and_validation_have_the_same_classes(classes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, {'val_dataloader.dataset.metainfo': named(*classes)})


def test_domains_have_the_same_classes(tmp_path):
    other = dict(
        type='DomainValLoop',
        dataloaders=dict(
            field=dict(dataset=dict(shift=0.5, metainfo=named('red', 'green', 'mauve')))
        ),
    )
    with pytest.raises(ValueError, match='missing in source: mauve; missing in field: blue'):
        run(tmp_path, {'val_cfg': other}, hooks=())


def test_several_sources_have_the_same_classes(tmp_path):
    other = dict(type='ToyDataset', metainfo=named('red', 'grey', 'blue'))
    joined = dict(_delete_=True, type='SeveralSources', datasets=[dict(type='ToyDataset'), other])
    with pytest.raises(ValueError, match=r'source 0 .* source 1 .* missing in .*: grey;'):
        run(tmp_path, {'train_dataloader.dataset': joined})


def test_a_test_has_the_classes_of_the_checkpoint(tmp_path):
    trained = train(toy_config(tmp_path, max_epochs=1))
    swapped = named('blue', 'green', 'red')
    for options, message in (
        ({}, None),
        (
            {'test_dataloader.dataset.metainfo': swapped},
            'number 0 is red in the checkpoint and blue in test_',
        ),
    ):
        cfg = toy_config(tmp_path, options=options)
        cfg.load_from, cfg.custom_hooks = str(tmp_path / 'epoch_1.pth'), HOOKS[1:]
        cfg.experiment_name = f'{trained.experiment_name}_{message}'
        runner = Runner.from_cfg(cfg)
        if message is None:
            assert 'accuracy/top1' in runner.test()
        else:
            with pytest.raises(ValueError, match=message):
                runner.test()


@pytest.mark.parametrize(
    ('lengths', 'scheduler'),
    [
        (dict(max_epochs=1), None),
        (dict(max_iters=3), None),
        (
            dict(max_epochs=1),
            dict(type='CosineAnnealingLR', convert_to_iter_based=True, by_epoch=True, T_max=1),
        ),
    ],
)
def test_a_loader_without_a_batch(lengths, scheduler, tmp_path):
    options = {'train_dataloader.batch_size': 50, 'train_dataloader.drop_last': True}
    if scheduler is not None:
        options['param_scheduler'] = scheduler
    with pytest.raises(ValueError, match=r'train loader yields no batch: .* 12 images'):
        run(tmp_path, options, **lengths)


@pytest.mark.parametrize(
    ('strategies', 'serialized'), [((), True), (('fine_tune',), False), (('dann',), True)]
)
def test_no_images(strategies, serialized, tmp_path):
    options = target() if strategies == ('dann',) else {}
    options.update(
        {'train_dataloader.dataset.size': 0, 'train_dataloader.dataset.serialize_data': serialized}
    )
    with pytest.raises(ValueError, match=r'(data set has no images|yields no batch).*'):
        run(tmp_path, options, strategies)


def test_no_images_to_validate_on(tmp_path):
    options = {'val_dataloader.dataset.size': 0, 'val_dataloader.dataset.serialize_data': True}
    with pytest.raises(ValueError, match=r'data set has no images: ToyDataset'):
        run(tmp_path, options)
    loop = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(size=0, shift=1))))
    with pytest.raises(ValueError, match=r'val_cfg\.dataloaders\.target data.* no images: Toy'):
        run(tmp_path, {'val_cfg': loop})


def test_one_image_and_batch_norm_of_vectors(tmp_path):
    neck = dict(
        type='LinearNeck',
        in_channels=64,
        out_channels=8,
        gap_dim=2,
        norm_cfg=dict(type='BN1d'),
        _delete_=True,
    )
    options = {'model.neck': neck, 'model.head.in_channels': 8, 'train_dataloader.dataset.size': 13}
    with pytest.raises(ValueError, match=r'last batch of each epoch has 1 image .*drop_last'):
        run(tmp_path, options)
    assert run(tmp_path, {**options, 'train_dataloader.drop_last': True}).iter == 3
    single = {**options, 'train_dataloader.batch_size': 1}
    with pytest.raises(ValueError, match=r"iteration 1 has 1 image.*BatchNorm1d at 'neck"):
        run(tmp_path, single)


def test_one_image_is_enough_where_the_map_is_large(tmp_path):
    thirteen = {'train_dataloader.dataset.size': 13}
    assert run(tmp_path, thirteen).iter == 4
    # Of 8 by 8 pixels the last stage of a ResNet leaves a single one.
    small = {'train_dataloader.dataset.image_size': 8, 'val_dataloader.dataset.image_size': 8}
    with pytest.raises(ValueError, match=r'iteration 4 has 1 image, and .* at .backbone\.la'):
        run(tmp_path, {**thirteen, **small})


@pytest.mark.parametrize('dsbn', [False, True])
def test_one_target_image_beside_the_source(dsbn, tmp_path):
    """Joint statistics have two images at least; domain-specific ones need more of each."""
    options = {
        'model.domain_specific_bn': dsbn,
        'train_dataloader.dataset.image_size': 8,
        'val_dataloader.dataset.image_size': 8,
        **target(size=5, image_size=8),
    }
    run_it = partial(run, tmp_path, options, ('dann',))
    if not dsbn:
        assert run_it().iter == 3
    else:
        with pytest.raises(ValueError, match=r'the target batch of iteration \d has 1 image'):
            run_it()


@pytest.mark.parametrize(
    ('labels', 'message', 'repaired'),
    [
        ('gaps', r'6 of its 12 images have no label.* class -1 and measure', 'some'),
        ('none', r'none of its 12 images has a label, and Accuracy needs labels', 'none'),
    ],
)
def test_validation_without_labels_is_refused_before_training(labels, message, repaired, tmp_path):
    with pytest.raises(ValueError, match=f'^val_dataloader: {message}') as error:
        run(tmp_path, {'val_dataloader.dataset.labels': labels})
    assert not list(tmp_path.glob('*.pth'))
    key, cure = str(error.value).rsplit(': ', 1)[1].split('=', 1)
    evaluator = eval(cure)  # what the message says, as it would be written in a config
    options = {'val_dataloader.dataset.labels': repaired, key: {'_delete_': True, **evaluator}}
    found = run(tmp_path, options).message_hub.log_scalars
    assert ('val/accuracy/top1' if labels == 'gaps' else 'val/label_free/entropy') in found


def test_validation_images_of_no_class_are_counted_in_the_log(tmp_path):
    run(tmp_path, {'val_dataloader.dataset.labels': 'some'})
    (log,) = tmp_path.glob('*/*.log')
    assert '6 of the 12 images of val_dataloader have the class -1' in log.read_text()


def test_folders_and_classes_of_the_config(tmp_path):
    for name in ('cat', 'dog'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        (tmp_path / 'data' / name / '1.png').write_bytes(b'')
    for classes, message in (
        (('cat', 'cow', 'dog'), 'has 2 class folders and 3 classes .* missing in the folders: cow'),
        (('dog', 'cat'), 'number 0 is cat in the folders and dog in metainfo'),
    ):
        data = dict(
            type='CustomDataset',
            data_root=str(tmp_path / 'data'),
            pipeline=[],
            metainfo=named(*classes),
            _delete_=True,
        )
        options = {'train_dataloader.dataset': data, 'model.head.num_classes': len(classes)}
        with pytest.raises(ValueError, match=message):
            run(tmp_path, options)


def test_what_else_goes_wrong_while_data_are_built_passes(tmp_path):
    with pytest.raises(KeyError, match='NoDataset is not in'):
        run(tmp_path, {'train_dataloader.dataset.type': 'NoDataset'})
    with pytest.raises(TypeError, match='colour'):
        run(tmp_path, {'train_dataloader.dataset.colour': 1})
    with pytest.raises(ZeroDivisionError), naming_bad_data():
        torch.zeros(1 // 0)
