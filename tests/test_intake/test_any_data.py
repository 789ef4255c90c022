"""Images through folders and configs; classes by name; disjoint splits."""

import random

import numpy as np
import pytest
from PIL import Image

from tl_plugin.intake.any_data import read_data
from tl_plugin.intake.images import (
    SPLITS,
    DomainImages,
    ImageItem,
    assign_splits,
    sample_per_class,
)
from tl_plugin.intake.prepared import prepare_data
from tl_plugin.strategies import configs_dir

CLASSES = ('cat', 'dog')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'photos'
    for name in CLASSES:
        (root / name / 'deep').mkdir(parents=True)
        for number in range(3):
            sub = root / name / ('deep' if number == 2 else '')
            Image.fromarray(np.full((8, 8, 3), 80 * number, np.uint8)).save(sub / f'{number} a.png')
    (root / 'mule').mkdir()
    (root / '.DS_Store').touch()
    return root


def content(domain):
    return sorted((item.name.split('photos/')[1], item.label) for item in domain.items)


def test_a_folder_holds_images_of_all_depths_and_empty_classes(folder):
    found = read_data(folder)
    assert found.classes == (*CLASSES, 'mule') and len(found.items) == 6
    assert {label for _, label in content(found)} == set(CLASSES)


def test_a_config_gives_its_data_sets_and_their_labels_by_name(folder, tmp_path):
    path = tmp_path / 'data.py'
    path.write_text(f'dataset = dict(type="CustomDataset", data_root={str(folder)!r}, pipeline=[])')
    assert content(read_data(path)) == content(read_data(folder))
    path.write_text(f'_base_ = {str(configs_dir() / "digits" / "_base_" / "data.py")!r}')
    digits = read_data(path)
    assert {item.split for item in digits.items} == set(SPLITS)
    assert digits.items[0].pixels.dtype == np.uint8 and len(digits.classes) == 10


def test_folders_of_splits_and_flat_folders(folder, tmp_path):
    for split in ('train', 'Validation'):
        (tmp_path / 'a' / split / 'cat').mkdir(parents=True)
        (tmp_path / 'a' / split / 'cat' / 'x.png').touch()
    found = read_data(tmp_path / 'a')
    assert [(item.split, item.label) for item in found.items] == [('val', 'cat'), ('train', 'cat')]
    assert found.classes == ('cat',)
    flat = read_data(folder / 'cat' / 'deep')
    assert flat.classes == () and not flat.labelled


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.csv', 'x,y\n1,2\n', 'found no image among the columns x, y; name it one of image'),
        ('a.csv', 'image,split\na.png,holdout\n', "the split is 'holdout', expected one of train"),
        ('a.csv', 'image\n', 'lists no images'),
        ('a.json', '{', 'is no JSON'),
        ('a.json', '["a.png"]', "record 1: .* got 'a.png'"),
        ('a.txt', 'a.png', 'neither a folder nor one of'),
        ('a.py', 'x = 1', 'names no data'),
    ],
)
def test_what_is_no_data_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / name)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='found no data at'):
        read_data(tmp_path / 'nothing')


def items(count=40, labels=CLASSES, split=''):
    return [
        ImageItem(f'/data/{label}/{number}.png', label, split)
        for label in labels
        for number in range(count)
    ]


def splits_of(divided):
    return {item.name: item.split for item in divided}


def test_division_is_disjoint_stratified_and_the_same_in_any_order_and_place():
    first = assign_splits(items())
    for label in CLASSES:
        counts = [sum(i.split == s and i.label == label for i in first) for s in SPLITS]
        assert counts == [26, 6, 8]
    shuffled = items()
    random.Random(0).shuffle(shuffled)
    assert splits_of(assign_splits(shuffled)) == splits_of(first)
    moved = [ImageItem(i.name.replace('/data', '/elsewhere'), i.label) for i in items()]
    assert list(splits_of(assign_splits(moved)).values()) == list(splits_of(first).values())
    assert splits_of(assign_splits(items(), seed=1)) != splits_of(first)


def test_copies_go_the_same_way():
    groups = [[f'/data/cat/{n}.png', f'/data/cat/{n + 1}.png'] for n in range(0, 40, 2)]
    where = splits_of(assign_splits(items(), groups))
    assert all(len({where[name] for name in group}) == 1 for group in groups)
    assert set(where.values()) == set(SPLITS)


def test_what_the_data_say_of_splits_stays():
    given = items(split='train') + [ImageItem('t', 'cat', 'test')]
    where = splits_of(assign_splits(given))
    assert [name for name, split in where.items() if split == 'test'] == ['t']
    assert sum(split == 'val' for split in where.values()) == 12
    with pytest.raises(ValueError, match='nothing is left to train on'):
        assign_splits(items(split='test'))


def test_few_a_class_are_few_and_labelled():
    chosen = sample_per_class(items() + [ImageItem('x')], 3)
    assert [sum(item.label == label for item in chosen) for label in CLASSES] == [3, 3]
    assert chosen == sample_per_class(items()[::-1], 3)[::-1]


def domain(listed, name='x'):
    classes = tuple(sorted({i.label for i in listed if i.label}))
    return DomainImages(name, tuple(listed), classes)


def test_target_labels_of_all_kinds():
    source, target = (
        domain(items()),
        domain([ImageItem(f't{n}', CLASSES[n % 2]) for n in range(40)]),
    )
    assert prepare_data(source, target).few == ()
    few = prepare_data(source, target, 2).few
    assert len(few) == 4 and all(item.split == 'train' for item in few)
    unlabelled = domain([ImageItem(item.name) for item in target.items])
    listed = domain(target.items[:20])
    found = prepare_data(source, unlabelled, listed)
    known = {item.name for item in found.target.items if item.label}
    assert known == {item.name for item in listed.items}
    assert {item.name for item in found.few} < known and len(found.target.items) == 40
    with pytest.raises(ValueError, match='no labelled target image is left'):
        prepare_data(source, unlabelled, 2)


def test_classes_are_compared_by_name():
    source = domain(items())
    other = domain(items(labels=('dog', 'mule')))
    found = prepare_data(source, other, leave_out=['/data/cat/0.png'])
    assert found.classes == CLASSES and len(found.source.items) == 79
    assert 'does not know: mule' in found.notes[0] and 'no image of cat' in found.notes[1]
    with pytest.raises(ValueError, match=r"no class in common: .* Are 'Cats' and 'cat' the"):
        prepare_data(source, domain(items(labels=('Cats',))))
    with pytest.raises(ValueError, match='has no labels'):
        prepare_data(domain([ImageItem('a')]), other)
