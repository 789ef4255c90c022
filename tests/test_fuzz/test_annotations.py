"""Annotation files: our own tables (CSV, JSON) and the lists of mmpretrain (text, JSON)."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import tl_plugin  # noqa: F401  registers the data sets
from tests.test_fuzz.refusal import examples, refused
from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.intake.any_data import read_data

KIND = 'annotations'
NAME = st.from_regex(r'[a-z]{1,6}/[0-9]{1,3}\.jpg', fullmatch=True)
WORD = st.from_regex(r'[a-z]{2,8}', fullmatch=True)
NO_LABEL = st.one_of(
    st.lists(st.integers(), max_size=2),
    st.dictionaries(WORD, st.integers(), max_size=1),
    st.booleans(),
    st.sampled_from([0.5, float('nan'), float('inf')]),
)
NO_UTF8 = st.sampled_from(['größe.jpg', 'é', 'ñandú/1.jpg']).map(lambda s: s.encode('latin-1'))


@pytest.fixture(scope='module')
def write(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp('annotations'), count()

    def write_it(name, content):
        path = folder / f'{next(numbers)}_{name}'
        path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
        return path

    return write_it


def refuse_table(write, name, content, *culprits):
    path = write(name, content)
    message = refused(KIND, lambda: read_data(path), *(culprits or (path.name,)))
    assert path.name in message


def refuse_list(write, content, *culprits, name='list.txt', **options):
    path = write(name, content)
    kind = dict(type='CustomDataset') if name.endswith('.txt') else dict(type='BaseDataset')
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(kind, data_root='', ann_file=str(path), **options),
    )

    def build():
        with DefaultScope.overwrite_default_scope('mmpretrain'), naming_bad_data():
            return Runner.build_dataloader(loader)

    message = refused(KIND, build, *culprits)
    assert path.name in message


@examples(40, KIND)
@given(rows=st.lists(NAME, max_size=4), extra=st.lists(WORD, max_size=3), place=st.integers(0, 4))
def test_csv_lines_with_too_many_or_too_few_cells(write, rows, extra, place):
    lines = [f'{name},cat' for name in rows]
    place = min(place, len(lines))
    lines.insert(place, ','.join(['odd.jpg', 'dog', *extra]) if extra else 'odd.jpg')
    content = '\n'.join(['image,label', *lines])
    refuse_table(write, 'rows.csv', content, f'line {place + 2}')


@examples(20, KIND)
@given(header=st.lists(WORD, min_size=1, max_size=3, unique=True), rows=st.lists(NAME, min_size=1))
def test_csv_without_an_image_column(write, header, rows):
    header = [f'x{name}' for name in header]
    content = '\n'.join([','.join(header), *(','.join([row] * len(header)) for row in rows)])
    refuse_table(write, 'columns.csv', content, 'record 1')


@examples(20, KIND)
@given(
    content=st.sampled_from(
        [
            '',
            '\n',
            'image,label',
            'image,label\n\n\n',
            'image,label\n,cat',
            'image,image\na,b',
            'image,label\n"a.jpg,cat\nb.jpg,dog',
            'image,label\na.jpg,cat\na.jpg,dog',
            'image,split\na.jpg,holdout',
            'image,label\na"b.jpg,"cat"x',
            '\0\0\0\0',
            'image,label\na.jpg,c\0t',
            'image;label\na.jpg;cat;dog',
            'image\tlabel\na.jpg',
        ]
    )
)
def test_csv_that_is_no_table(write, content):
    refuse_table(write, 'broken.csv', content)


@examples(30, KIND)
@given(
    good=st.lists(NAME, max_size=4),
    bad=NO_UTF8,
    name=st.sampled_from(['bytes.csv', 'bytes.json', 'bytes.jsonl', 'bytes.tsv']),
)
def test_other_encodings(write, good, bad, name):
    content = b'\n'.join([b'image', *(line.encode() for line in good), bad])
    refuse_table(write, name, content, f'line {len(good) + 2}')
    refuse_table(write, name, '\n'.join(['image', *good, 'a']).encode('utf-16'), 'line 1')


@examples(40, KIND)
@given(
    content=st.one_of(
        st.integers(),
        st.text(max_size=5),
        st.none(),
        st.booleans(),
        st.just([]),
        st.just({}),
        st.lists(st.integers(), min_size=1, max_size=2),
        st.lists(st.lists(NAME), min_size=1, max_size=2),
        st.builds(lambda name, label: {name: label}, NAME, NO_LABEL),
        st.builds(lambda name, label: [dict(image=name, label=label)], NAME, NO_LABEL),
        st.builds(lambda name: [dict(image=name)], st.one_of(st.integers(), st.just([]))),
        st.builds(lambda name, key: [{f'x{key}': name}], NAME, WORD),
        st.builds(lambda name, split: [dict(image=name, split=f'x{split}')], NAME, WORD),
        st.builds(lambda name: [dict(image=name, label='a'), dict(image=name, label='b')], NAME),
    ),
    lines=st.booleans(),
)
def test_json_of_another_form(write, content, lines):
    if lines and isinstance(content, list) and content:
        refuse_table(write, 'form.jsonl', '\n'.join(map(json.dumps, content)))
    else:
        refuse_table(write, 'form.json', json.dumps(content))


@examples(30, KIND)
@given(
    classes=st.lists(WORD, min_size=1, max_size=3, unique=True),
    name=NAME,
    label=st.one_of(
        st.integers(min_value=3), st.integers(max_value=-2), WORD.map('x{}'.format), NO_LABEL
    ),
    others=st.sampled_from([None, 7, 'cat', [1, 2], {}]),
)
def test_json_of_mmengine(write, classes, name, label, others):
    record = dict(img_path=name, gt_label=label)
    content = dict(metainfo=dict(classes=classes), data_list=[record])
    refuse_table(write, 'labels.json', json.dumps(content), 'record 1')
    content = dict(metainfo=dict(classes=classes), data_list=others)
    refuse_table(write, 'labels.json', json.dumps(content))
    if others is not None and others != {}:
        content = dict(metainfo=dict(classes=others), data_list=[dict(img_path=name)])
        refuse_table(write, 'labels.json', json.dumps(content), 'metainfo.classes')


@examples(30, KIND)
@given(cut=st.integers(1, 60), flip=st.integers(0, 59))
def test_json_that_is_cut_off(write, cut, flip):
    whole = json.dumps([dict(image=f'{n}.jpg', label='cat') for n in range(2)])
    refuse_table(write, 'cut.json', whole[: min(cut, len(whole) - 1)])
    refuse_table(write, 'odd.json', whole[:flip] + '\x01' + whole[flip:])
    refuse_table(write, 'deep.json', '[' * (1000 * cut))


@examples(60, KIND)
@given(
    good=st.lists(NAME, max_size=3),
    bad=st.one_of(
        NAME,
        st.just(''),
        NAME.map('{} cat'.format),
        NAME.map('{},1'.format),
        NAME.map('{}\t1'.format),
        NAME.map('{} 1.5'.format),
        NAME.map('{} nan'.format),
        NAME.map('{} 0x1'.format),
    ),
)
def test_lines_of_mmpretrain(write, good, bad):
    lines = [*(f'{name} 0' for name in good), bad, 'last.jpg 1']
    refuse_list(write, '\n'.join(lines), f'line {len(good) + 1}')


@examples(20, KIND)
@given(good=st.lists(NAME, max_size=3), bad=NO_UTF8, with_label=st.booleans())
def test_bytes_in_lines_of_mmpretrain(write, good, bad, with_label):
    content = b'\n'.join([*(f'{name} 0'.encode() for name in good), bad + b' 1'])
    refuse_list(write, content, f'line {len(good) + 1}', with_label=with_label)


@examples(30, KIND)
@given(
    content=st.one_of(
        st.integers(),
        st.text(max_size=4),
        st.lists(st.integers()),
        st.just({}),
        st.just(dict(metainfo={}, data_list=[])),
        st.just(dict(metainfo=[], data_list=[{}])),
        st.just(dict(metainfo={}, data_list={})),
        st.builds(
            lambda one: dict(metainfo={}, data_list=[one]),
            st.one_of(
                st.integers(),
                st.text(max_size=3),
                st.just({}),
                st.lists(NAME),
                st.builds(lambda name: dict(path=name), NAME),
            ),
        ),
    )
)
def test_json_of_mmengine_in_a_stock_data_set(write, content):
    refuse_list(write, json.dumps(content), 'expected', 'empty', name='stock.json')
