import pytest
from mmengine.config import ConfigDict

from tl_plugin.engine.loops import inherit_dataloader

BASE = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='source', with_label=True, pipeline=['a', 'b']),
)


def test_what_is_not_set_is_inherited():
    found = inherit_dataloader(BASE, dict(batch_size=3, dataset=dict(data_root='target')), 'k')
    assert found == {
        **BASE, 'batch_size': 3, 'dataset': {**BASE['dataset'], 'data_root': 'target'}
    }  # fmt: skip


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
