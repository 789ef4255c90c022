import pytest
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import DATASETS

from tests.folders import CLASSES, NESTING, WRAPPERS, build, folder, make_folders, make_list
from tl_plugin.datasets.wrappers import image_infos
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.engine.loops.inherit import unlabelled_dataloader

BASE = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='source', with_label=True, pipeline=['a', 'b']),
)


def test_what_is_not_set_is_inherited():
    found = inherit_dataloader(BASE, dict(batch_size=3, dataset=dict(data_root='target')), 'k')
    assert found == {**BASE, 'batch_size': 3, 'dataset': {**BASE['dataset'], 'data_root': 'target'}}


def test_another_type_inherits_the_pipeline_alone():
    found = inherit_dataloader(BASE, dict(dataset=dict(type='CIFAR10', split='test')), 'k')
    assert found['dataset'] == dict(type='CIFAR10', split='test', pipeline=['a', 'b'])
    assert found['sampler'] == BASE['sampler']


@pytest.mark.parametrize('key', ['dataset', 'datasets'])
def test_the_pipeline_of_a_wrapped_dataset(key):
    inner = BASE['dataset'] if key == 'dataset' else [BASE['dataset']]
    wrapped = {**BASE, 'dataset': dict(type='Wrapper', times=3, **{key: inner})}
    found = inherit_dataloader(wrapped, dict(dataset=dict(type='CIFAR10', split='test')), 'k')
    assert found['dataset'] == dict(type='CIFAR10', split='test', pipeline=['a', 'b'])


def test_delete_replaces():
    override = dict(dataset=dict(_delete_=True, type='CustomDataset', data_root='target'))
    found = inherit_dataloader(BASE, override, 'k')
    assert found['dataset'] == dict(type='CustomDataset', data_root='target')


def test_nothing_is_written_into_the_configs():
    base, override = ConfigDict(BASE), ConfigDict(dataset=dict(data_root='target'))
    found = inherit_dataloader(base, override, 'k')
    found['dataset']['pipeline'].append('c')
    assert base == ConfigDict(BASE) and override == ConfigDict(dataset=dict(data_root='target'))


@pytest.mark.parametrize('override', [None, {}, dict(batch_size=2), dict(dataset={})])
def test_no_data_is_an_error_that_tells_the_option(override):
    with pytest.raises(ValueError, match=r'--cfg-options k\.dataset\.data_root=PATH'):
        inherit_dataloader(BASE, override, 'k')


def test_the_source_itself_is_no_target():
    with pytest.raises(ValueError, match='is the source data itself'):
        inherit_dataloader(BASE, dict(dataset=dict(data_root='source')), 'k')


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp('data')
    counts = dict(circle=2, line=5, square=2)
    return make_folders(base / 'src', 4), make_folders(base / 'tgt', counts)


def _target(base, options, labelled=False):
    """The target's data set, by options as they stand on the command line."""
    cfg = Config(dict(train_cfg={}))
    cfg.merge_from_dict({f'train_cfg.k.{name}': value for name, value in options.items()})
    loader = inherit_dataloader(base, cfg.train_cfg.k, 'k', labelled)
    return loader, build(loader['dataset'])


def _paths(dataset):
    return sorted(dataset.get_data_info(index)['img_path'] for index in range(len(dataset)))


@pytest.mark.parametrize('labelled', [False, True])
@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('kind', WRAPPERS)
def test_the_innermost_data_set_is_meant_and_gives_each_image_once(roots, kind, nested, labelled):
    source, target = roots
    base = dict(batch_size=4, dataset=WRAPPERS[kind](folder(source)))
    key = f'dataset.{NESTING[kind] if nested else ""}data_root'
    loader, dataset = _target(base, {key: str(target)}, labelled)
    assert loader == dict(batch_size=4, dataset=folder(target))
    assert _paths(dataset) == sorted(map(str, target.rglob('*.png')))


def test_of_joined_sources_each_part_can_be_inherited_from(roots):
    source, target = roots
    other = folder(source, with_label=False)
    base = dict(dataset=dict(type='SeveralSources', datasets=[folder(source), other]))
    loader, _ = _target(base, {'dataset.datasets.1.data_root': str(target)})
    assert loader['dataset'] == folder(target, with_label=False)
    loader, dataset = _target(
        base,
        {
            'dataset.datasets.1.data_root': str(target),
            'dataset.datasets.0.data_root': str(target),
            'dataset.datasets.1.metainfo': dict(classes=CLASSES),
        },
    )
    second = folder(target, with_label=False, metainfo=dict(classes=CLASSES))
    assert loader['dataset'] == dict(type='ConcatDataset', datasets=[folder(target), second])
    assert len(dataset) == 18


def test_nothing_that_chooses_or_labels_is_inherited_without_labels(roots, tmp_path):
    source, target = roots
    lists = make_list(tmp_path / 'source.txt', source)
    inner = folder(
        source, ann_file=str(lists), indices=3, filter_cfg=dict(a=1), metainfo=dict(classes=CLASSES)
    )
    base = dict(
        sampler=dict(type='WeightedSampler', weights='of classes', shuffle=False),
        batch_sampler=dict(type='ClassBatchSampler'),
        dataset=inner,
    )
    loader, dataset = _target(base, {'dataset.data_root': str(target)})
    assert loader == dict(
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=folder(target, metainfo=dict(classes=CLASSES), with_label=False),
    )
    assert _paths(dataset) == sorted(map(str, target.rglob('*.png')))
    assert not any('gt_label' in info for info in image_infos(dataset))
    kept = inherit_dataloader(base, dict(dataset=dict(data_root=str(target))), 'k', labelled=True)
    assert kept == {**base, 'dataset': {**inner, 'data_root': str(target)}}


@pytest.mark.parametrize('flat', [False, True])
def test_a_list_with_a_prefix_becomes_that_folder(tmp_path, flat):
    for domain in ('src', 'tgt'):
        make_folders(tmp_path / domain / 'train')
    (tmp_path / 'tgt' / 'train' / 'flat.png').touch()
    make_list(tmp_path / 'src' / 'train.txt', tmp_path / 'src' / 'train')
    base = dict(
        dataset=folder(
            tmp_path / 'src',
            ann_file='train.txt',
            data_prefix='train',
            metainfo=dict(classes=CLASSES),
        )
    )
    options = {'dataset.data_root': str(tmp_path / 'tgt')}
    assert len(_target(base, options)[1]) == 13
    labelled = {**options, 'dataset.with_label': True}
    assert len(_target(base, labelled)[1]) == 12
    make_list(tmp_path / 'tgt' / 'some.txt', tmp_path / 'tgt' / 'train' / 'line', labels=False)
    own = {
        **options,
        'dataset.ann_file': 'some.txt',
        'dataset.with_label': False,
        'dataset.data_prefix': 'train/line',
    }
    assert len(_target(base, own)[1]) == 4


def test_a_type_that_needs_a_list_asks_for_one(roots):
    own = dict(type='MultiLabelDataset', data_root='s', ann_file='s.json', pipeline=[])
    base = dict(dataset=own)
    with pytest.raises(ValueError, match=r'k\.dataset needs an ann_file of its own: MultiLabelDat'):
        _target(base, {'dataset.data_root': str(roots[1])})
    advice = {'type': 'CustomDataset', 'data_root': str(roots[1]), 'with_label': False}
    assert len(_target(base, {f'dataset.{name}': value for name, value in advice.items()})[1]) == 9


def test_types_are_told_apart_by_their_bare_names(roots):
    base = dict(dataset=folder(roots[0], with_label=False))
    for kind in ('mmpretrain.CustomDataset', DATASETS.get('CustomDataset')):
        found = inherit_dataloader(base, dict(dataset=dict(type=kind, data_root='t')), 'k')
        assert found['dataset'] == {**folder('t', with_label=False), 'type': kind}


@pytest.mark.parametrize('kind', ['repeat', 'fold', 'joined', 'several', 'nested', 'balanced'])
def test_a_target_that_is_wrapped_by_itself(roots, kind):
    source, target = roots
    own = WRAPPERS[kind](dict(data_root=str(target)))
    base = dict(dataset=WRAPPERS['balanced'](folder(source)))
    if kind in ('nested', 'balanced'):
        where = r'k\.dataset' + (r'\.dataset\.datasets\.0' if kind == 'nested' else '')
        with pytest.raises(ValueError, match=f'^{where} is a ClassBalancedDataset, which draws'):
            inherit_dataloader(base, dict(dataset=own), 'k')
        own = WRAPPERS['repeat'](dict(data_root=str(target)))  # the advice
        inherit_dataloader(base, dict(dataset=own), 'k')
    found = inherit_dataloader(base, dict(dataset=own), 'k', labelled=True)
    assert found['dataset'] == WRAPPERS['repeat' if kind in ('nested', 'balanced') else kind](
        folder(target)
    )


@pytest.mark.parametrize(
    ('own', 'error', 'message'),
    [
        (dict(times=2, dataset=dict(data_root='t')), ValueError, 'sets times of a wrapper without'),
        (dict(datasets=dict(a=dict(data_root='t'))), TypeError, 'datasets must be a list of dicts'),
        ('data/target', TypeError, r'k\.dataset must be a dict'),
    ],
)
def test_what_cannot_be_meant(own, error, message):
    with pytest.raises(error, match=message):
        inherit_dataloader(dict(dataset=WRAPPERS['repeat'](folder('s'))), dict(dataset=own), 'k')


def test_a_sampler_of_another_type_has_its_own_arguments():
    base = {**BASE, 'sampler': dict(type='RepeatAugSampler', num_repeats=3)}
    own = dict(dataset=dict(data_root='t'), sampler=dict(type='InfiniteSampler'))
    assert inherit_dataloader(base, own, 'k')['sampler'] == dict(type='InfiniteSampler')
    own['sampler'] = dict(num_repeats=2)
    expected = dict(type='RepeatAugSampler', num_repeats=2)
    assert inherit_dataloader(base, own, 'k')['sampler'] == expected


def test_the_source_inside_a_wrapper_is_no_target():
    base = dict(dataset=WRAPPERS['nested'](folder('s')))
    with pytest.raises(ValueError, match='is the source data itself'):
        inherit_dataloader(base, dict(dataset=dict(data_root='s')), 'k')


@pytest.mark.parametrize('kind', WRAPPERS)
def test_a_training_loader_that_is_made_the_targets(roots, kind):
    loader = dict(batch_size=4, dataset=WRAPPERS[kind](folder(roots[0])))
    if 'Balanced' in str(loader):
        with pytest.raises(ValueError, match=r'^t\.dataset\S* is a ClassBalancedDataset'):
            unlabelled_dataloader(loader, 't')
    else:
        assert unlabelled_dataloader(loader, 't') == loader
    loader['dataset']['data_root'] = str(roots[1])
    found = unlabelled_dataloader(loader, 't')
    assert found == dict(batch_size=4, dataset=folder(roots[1]))
