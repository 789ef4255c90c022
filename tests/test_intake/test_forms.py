"""The same images in every form give the same domain, and configs of its parts."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.folders import build
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.intake.any_data import read_data, without_labels
from tl_plugin.intake.backbone_choice import ModelChoice
from tl_plugin.intake.config_writer import dataset_config
from tl_plugin.intake.config_writer import write_config as write_config_of
from tl_plugin.intake.images import SPLITS
from tl_plugin.intake.prepared import prepare_data

CLASSES = ('cat', 'dog')
COUNT = 12
COLUMNS = {
    'csv': 'image,label',
    'tsv': 'image\tlabel',
    'excel.csv': 'File;Class',
    'split.tsv': 'split\tclass_name\timg_path',
}
TABLES = (*COLUMNS, 'json', 'records.json', 'jsonl', 'mmengine.json', 'coco.json')
CONFIGS = ('stock', 'repeat', 'balanced', 'concat', 'several', 'fold')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Class folders, and a flat folder of the same names."""
    return make(tmp_path_factory.mktemp('forms'))


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
    """The same of other files."""
    return make(tmp_path_factory.mktemp('elsewhere'))


def make(root):
    for label in CLASSES:
        for number in range(COUNT):
            for path in (f'folders/{label}/{label}{number}.png', f'flat/{label}{number}.png'):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((8, 8, 3), 10 * number, np.uint8)
                pixels[..., CLASSES.index(label)] = 255
                Image.fromarray(pixels).save(root / path)
    (root / 'lists').mkdir()
    return root


def rows(labels):
    """Path and label of each image: all labels, none, or those of every third."""
    kept = dict(all=1, none=COUNT * 9, some=3)[labels]
    return [
        (f'folders/{label}/{label}{n}.png', label if (n + 1) % kept == 0 else None)
        for label in CLASSES
        for n in range(COUNT)
    ]


def write_table(place, form, labels):
    path = place / f'{labels}.{form}'
    listed = rows(labels)
    if form in COLUMNS:
        cells = [(name, label or '') for name, label in listed]
        if form == 'split.tsv':
            cells = [('', label, name) for name, label in cells]
        delimiter = next(mark for mark in ',;\t' if mark in COLUMNS[form])
        text = '\n'.join([COLUMNS[form], *map(delimiter.join, cells)])
        path.write_text(text, encoding='utf-8-sig' if form == 'excel.csv' else 'utf-8')
    elif form == 'json':
        path.write_text(json.dumps(dict(listed)))
    elif form == 'records.json':
        path.write_text(json.dumps([dict(file_name=n, category=c) for n, c in listed]))
    elif form == 'jsonl':
        path.write_text('\n'.join(json.dumps(dict(image=n, label=c)) for n, c in listed))
    elif form == 'coco.json':
        path.write_text(json.dumps(coco(listed)))
    else:
        data = [dict(img_path=name, gt_label=CLASSES.index(c) if c else -1) for name, c in listed]
        path.write_text(json.dumps(dict(metainfo=dict(classes=CLASSES), data_list=data)))
    return path


def coco(listed):
    """Two boxes of its class in each image that has one."""
    numbered = list(enumerate(listed, 100))
    return dict(
        images=[dict(id=i, file_name=name) for i, (name, _) in numbered],
        annotations=2
        * [dict(image_id=i, category_id=CLASSES.index(c) + 1) for i, (_, c) in numbered if c],
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)],
    )


def write_config(place, form, labels):
    """mmpretrain data sets, as they are and wrapped: each gives the same images."""
    listed = place / 'lists' / f'{labels}.txt'
    listed.write_text(''.join(f'{n} {CLASSES.index(c) if c else -1}\n' for n, c in rows(labels)))
    stock = dict(
        type='CustomDataset',
        data_root=str(place),
        ann_file=str(listed),
        # Serializing collects all garbage, which takes longer than the rest.
        metainfo=dict(classes=CLASSES),
        pipeline=[],
        serialize_data=False,
    )
    halves = [dict(stock, indices=list(range(*ends))) for ends in ((0, 5), (5, 2 * COUNT))]
    dataset = dict(
        class_folders=dict(type='CustomDataset', data_root=str(place / 'folders'), pipeline=[]),
        stock=stock,
        repeat=dict(type='RepeatDataset', times=3, dataset=stock),
        balanced=dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=stock),
        ),
        concat=dict(type='ConcatDataset', datasets=halves),
        several=dict(type='SeveralSources', datasets=halves),
        # Of two copies one after the other, the second half.
        fold=dict(
            type='KFoldDataset',
            fold=0,
            num_splits=2,
            dataset=dict(stock, indices=[0] * 2 * COUNT + list(range(2 * COUNT))),
        ),
    )[form]
    path = place / f'{form}_{labels}.py'
    path.write_text(f'dataset = {dataset!r}')
    return path


def write(place, form, labels='all'):
    return (write_table if form in TABLES else write_config)(place, form, labels)


def content(domain):
    return {item.name.split('/')[-1]: item.label for item in domain.items}


@pytest.mark.parametrize(
    ('form', 'labels'),
    [
        (form, labels)
        for form in (*TABLES, *CONFIGS)
        for labels in ('all', 'none', 'some')
        if form != 'balanced' or labels == 'all'  # mmengine balances what has labels
    ],
)
def test_all_forms_give_the_same_images_and_labels(place, form, labels):
    found = read_data(write(place, form, labels))
    assert len(found.items) == 2 * COUNT
    assert content(found) == {name.split('/')[-1]: label for name, label in rows(labels)}
    assert found.classes == (() if labels == 'none' else CLASSES)


def test_folders_with_labels_and_without(place):
    assert content(read_data(place / 'folders')) == content(read_data(write(place, 'csv')))
    flat = read_data(place / 'flat')
    assert content(flat) == content(read_data(write(place, 'csv', 'none')))
    assert flat.classes == ()


@pytest.mark.parametrize('form', ['csv', *CONFIGS])
def test_the_written_parts_hold_each_image_once_with_its_label(place, form):
    source = read_data(write(place, form))
    data = prepare_data(source, read_data(place / 'flat'))
    seen = {}
    for split in SPLITS:
        items = data.source.split(split)
        config = dataset_config(data.source, items, data.classes, [], place / f'{form}.txt')
        dataset = build(config)
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            name = info['img_path'].split('/')[-1]
            assert name not in seen
            seen[name] = CLASSES[info['gt_label']]
        assert len(dataset) == len(items)
    assert seen == content(source)


@pytest.mark.parametrize('form', ['stock', 'concat'])
def test_a_config_whose_labels_are_not_read_gives_none(place, form):
    domain = without_labels(read_data(write(place, form)))
    config = dataset_config(domain, domain.items, ('other',), [], place / 'x.txt', labels=False)
    dataset = build(config)
    assert len(dataset) == 2 * COUNT and not dataset.metainfo['classes']


@pytest.mark.parametrize(
    ('source', 'target'),
    [
        ('csv', 'class_folders'),
        ('stock', 'class_folders'),
        ('stock', 'csv'),
        ('csv', 'concat'),
        ('concat', 'stock'),
        ('fold', 'fold'),
    ],
)
def test_the_target_of_a_written_config_inherits_no_images_of_the_source(
    place, elsewhere, source, target
):
    """Also where both are data sets of one type, and the source's is a list or narrowed."""
    data = prepare_data(read_data(write(place, source)), read_data(write(elsewhere, target)))
    choice = ModelChoice(model={}, data_preprocessor={}, cfg=Config(dict(default_scope='x')))
    cfg = Config.fromfile(write_config_of(data, choice, place / f'{source}_{target}'))
    for split in ('val', 'test'):
        loader = inherit_dataloader(
            cfg[f'{split}_dataloader'], cfg[f'{split}_cfg'].dataloaders.target, split
        )
        loader['dataset'].pop('pipeline', None)
        dataset = build(loader['dataset'])
        found = [dataset.get_data_info(index) for index in range(len(dataset))]
        assert {info['img_path']: CLASSES[info['gt_label']] for info in found} == {
            str(Path(item.name).absolute()): item.label for item in data.target.split(split)
        }


def test_images_left_out_at_the_end_stay_out(place):
    """What remains is the first images of the data set, but not the data set."""
    domain = read_data(write(place, 'stock'))
    first = domain.items[:-1]
    data = prepare_data(domain, read_data(place / 'flat'), leave_out=[domain.items[-1].name])
    config = dataset_config(data.source, first, CLASSES, [], place / 'x.txt')
    assert len(build(config)) == 2 * COUNT - 1


def test_several_labels_an_image_are_refused(place):
    path = place / 'multi.json'
    records = [dict(img_path=name, gt_label=[0, 1]) for name, _ in rows('all')]
    path.write_text(json.dumps(dict(metainfo=dict(classes=CLASSES), data_list=records)))
    config = place / 'multi.py'
    config.write_text(f'dataset = dict(type="MultiLabelDataset", ann_file={str(path)!r})')
    with pytest.raises(ValueError, match=r'image 0 of its data has 2 labels, \[0, 1\]'):
        read_data(config)


def test_coco_files_that_give_no_class_an_image_are_refused(place):
    path, content = place / 'broken.json', coco(rows('all'))
    content['annotations'].append(dict(image_id=100, category_id=2))
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='has objects of 2 categories, cat, dog'):
        read_data(path)
    content['annotations'].append(dict(image_id=101, category_id=7))
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='as COCO has them, but an entry lacks or refers to 7'):
        read_data(path)
    path.write_text(json.dumps(dict(train=[dict(image='x.png')] * 500)))
    with pytest.raises(ValueError) as refused:
        read_data(path)
    assert len(str(refused.value)) < 500
