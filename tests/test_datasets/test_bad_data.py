"""Annotations that a stock data set can't read: file, line, what was expected."""

from __future__ import annotations

import json

import pytest
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import tl_plugin  # noqa: F401  registers the data sets
from tests.folders import WRAPPERS, folder, make_folders
from tl_plugin.datasets.bad_data import differing_names, naming_bad_data


def build(**dataset):
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'), naming_bad_data():
        return Runner.build_dataloader(loader).dataset


@pytest.mark.parametrize(
    ('raw', 'message'),
    [
        (b'a.jpg 0\nb.jpg\nc.jpg 1\n', r"list\.txt, line 2: expected .*number of its .*'b\.jpg'"),
        (b'a.jpg 0\nb.jpg cat\n', "line 2: expected .* got 'b.jpg cat'"),
        (b'a.jpg,0\n', "line 1: expected .* a space .* got 'a.jpg,0'"),
        (b'a.jpg 0\n\nb.jpg 1\n', "line 2: expected .* got ''"),
        (b'a.jpg 0\nb.jpg 1.5\n', 'line 2: expected'),
        (b'a.jpg 0\nb\xf6.jpg 1\n', r"line 2: expected text in UTF-8, got byte 0xf6 after 'b'"),
        (b'a.jpg 0\nb\0.jpg x\n', 'line 2: expected text, got a zero byte'),
        (b'', 'list.txt is empty'),
    ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_lines_of_path_and_label(raw, message, wrapped, tmp_path):
    (tmp_path / 'list.txt').write_bytes(raw)
    config = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt')
    if wrapped:
        config = dict(type='RepeatDataset', times=2, dataset=config)
    with pytest.raises(ValueError, match=message):
        build(**config)


def test_imagenet_finds_its_list_by_the_split(tmp_path):
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'train.txt').write_text('a.jpg 0\nb.jpg first\n')
    with pytest.raises(ValueError, match=r'meta/train\.txt, line 2'):
        build(type='ImageNet', data_root=str(tmp_path), split='train')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"data_list": [', r'list\.json is no JSON: .*line 1'),
        ('[]', 'list.json: expected an object with data_list and metainfo, got <class .list'),
        ('{"images": []}', 'expected an object with data_list .* got the keys images'),
        ('{"metainfo": {}, "data_list": []}', 'data_list is empty'),
        (json.dumps(dict(metainfo={}, data_list=[dict(img_path='a.jpg'), 7])), 'record 2: .* 7'),
        (json.dumps(dict(metainfo={}, data_list=[dict(path='a.jpg')])), 'record 1: .* img_path'),
        (json.dumps(dict(metainfo=3, data_list=[])), 'expected metainfo to be an object'),
    ],
)
def test_json_of_mmengine(content, message, tmp_path):
    (tmp_path / 'list.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        build(type='mmpretrain.BaseDataset', data_root=str(tmp_path), ann_file='list.json')


def test_good_files_and_missing_ones_are_left_to_the_data_set(tmp_path):
    (tmp_path / 'list.txt').write_text('a b.jpg 0\nc.jpg 1\n')
    config = dict(type='CustomDataset', data_root=str(tmp_path))
    assert len(build(**config, ann_file='list.txt')) == 2
    with pytest.raises(FileNotFoundError, match='gone'):
        build(**config, ann_file='gone.txt')
    with pytest.raises(ValueError, match='data set has no images: CustomDataset'):
        build(**config, data_prefix='', with_label=False, extensions=('.tif',))


def test_names_that_come_twice():
    assert 'some of them twice' in differing_names('a', ['x', 'x'], 'b', ['x'])


@pytest.mark.parametrize(
    ('others', 'how'),
    [(['cross'], 'missing in .*: cross; missing in .*: line'), (['line'], 'of one are a list and')],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_joined_data_sets_with_other_classes_are_refused(wrapped, others, how, tmp_path):
    parts = [folder(make_folders(tmp_path / name)) for name in 'ab']
    parts[1]['metainfo'] = dict(classes=['circle', *others, 'square'])
    config = dict(type='ConcatDataset', datasets=parts)
    if wrapped:
        config = WRAPPERS['repeat'](config)
    with pytest.raises(ValueError, match=f'ConcatDataset joins Custom.* classes differ: .*{how}'):
        build(**config)
    for part in parts:  # the fix
        part['metainfo'] = dict(classes=['circle', 'line', 'square'])
    assert len(build(**config)) == 24 * (3 if wrapped else 1)


def test_a_folder_of_images_without_class_folders_is_told_how_to_read_it(tmp_path):
    (tmp_path / '1.JPG').touch()
    for key in ('data_root', 'data_prefix'):
        inner = {'type': 'CustomDataset', key: str(tmp_path), 'pipeline': []}
        with pytest.raises(ValueError, match='outside class folders: with_label=False reads them'):
            build(type='RepeatDataset', times=2, dataset=inner)
