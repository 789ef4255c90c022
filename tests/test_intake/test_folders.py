"""Folders as people have them, read the same way for training and for the intake."""

import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset, ImageNet
from PIL import Image

from tests.folders import build
from tests.folders import folder as stock
from tests.toy import toy_config, train
from tl_plugin.datasets.folders import EXTENSIONS, STOCK_EXTENSIONS
from tl_plugin.intake.any_data import read_data

SYSTEM = (
    '.ipynb_checkpoints',
    '__MACOSX',
    '.git',
    '@eaDir',
    '$RECYCLE.BIN',
    'lost+found',
    'System Volume Information',
)
CLASSES = ('circle', 'line')
PICTURE = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))


def save(path, form=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.save(path, form)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two classes, of all extensions, and what systems leave beside, in and below them."""
    root = tmp_path_factory.mktemp('folders') / 'photos'
    for name in CLASSES:
        for number in range(2):
            save(root / name / f'{number}.png')
        save(root / name / 'a.JPEG')
        save(root / name / 'deep' / 'b.tiff')
        save(root / name / 'c.webp')
        save(root / name / 'd.jfif', 'JPEG')
    for name in SYSTEM:
        save(root / name / 'x-checkpoint.png')
        save(root / 'circle' / name / 'x-checkpoint.png')
    for name in ('.DS_Store', '._0.png', 'Thumbs.db', 'desktop.ini'):
        (root / 'line' / name).write_bytes(b'nothing')
        (root / name).write_bytes(b'nothing')
    save(root / 'line' / 'old.pcx')
    save(root / 'line' / 'without', 'PNG')
    (root / 'line' / 'read me.txt').write_text('photos')
    return root


def files_of(dataset):
    return sorted(dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))


@pytest.fixture
def logged():
    """What mmengine's logger says."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_class_folders_hold_the_same_for_training_and_for_the_intake(folder):
    dataset, found = CustomDataset(data_root=str(folder)), read_data(folder)
    assert dataset.metainfo['classes'] == found.classes == CLASSES
    assert files_of(dataset) == sorted(item.name for item in found.items)
    assert len(dataset) == 12 and set(STOCK_EXTENSIONS) < set(EXTENSIONS)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert CLASSES[info['gt_label']] == info['img_path'][len(str(folder)) + 1 :].split('/')[0]


def test_a_folder_without_classes_does_too(folder):
    dataset = CustomDataset(data_root=str(folder), with_label=False)
    assert files_of(dataset) == sorted(item.name for item in read_data(folder).items)


def test_what_derives_from_it_and_what_wraps_it(folder):
    dataset = ImageNet(data_root=str(folder), metainfo=dict(classes=CLASSES))
    assert len(dataset) == 12
    repeated = build(dict(type='RepeatDataset', times=2, dataset=stock(folder)))
    assert repeated.metainfo['classes'] == CLASSES and len(repeated) == 24


def test_what_is_left_out_or_read_beyond_the_hosts_own_is_counted_and_named(folder, logged):
    CustomDataset(data_root=str(folder))
    (left_out,) = [text for level, text in logged if level == 'WARNING']
    assert '3 files are left out by their extension' in left_out
    for part in ('1 .pcx (old.pcx)', '1 .txt (read me.txt)', '1 without extension (without)'):
        assert part in left_out
        assert part.replace('(', '(line/') in read_data(folder).notes[1]
    (more,) = [text for _, text in logged if 'without tl_plugin' in text]
    for part in ('of 12 images', '2 .tiff (deep/b.tiff)', '2 .webp', '2 .jfif'):
        assert part in more
    assert any('__MACOSX' in text and 'no classes' in text for _, text in logged)
    assert '__MACOSX' in read_data(folder).notes[0]


def test_a_config_that_sets_extensions_is_followed_and_the_fix_works(folder, logged):
    dataset = CustomDataset(data_root=str(folder), extensions=('.png', '.jpeg'))
    assert len(dataset) == 6
    (left_out,) = [text for level, text in logged if level == 'WARNING']
    assert '2 .webp (c.webp)' in left_out
    fix = left_out.split('give the data set extensions=')[1].rstrip('.')
    extensions = eval(fix, {})
    assert len(CustomDataset(data_root=str(folder), extensions=extensions)) == 12


def test_every_file_is_listed_on_request(folder):
    found = read_data(folder, every_file=True)
    names = {item.name.split('/')[-1] for item in found.items if item.name in found.unlisted}
    assert names == {'old.pcx', 'without', 'read me.txt'} and len(found.items) == 15


def test_a_run_trains_on_them(folder, tmp_path):
    """With images read by the stock pipeline, in a worker's process, whatever their extension."""
    data = stock(folder, _delete_=True)
    options = {
        'train_dataloader.dataset': data,
        'val_dataloader.dataset': data,
        'train_dataloader.num_workers': 1,
        'model.head.num_classes': 2,
        'data_preprocessor.num_classes': 2,
        'custom_hooks': [dict(type='DataCheckHook')],
    }
    runner = train(toy_config(tmp_path, options=options, max_epochs=1))
    assert runner.iter == 3


def test_splits_beside_other_folders(tmp_path):
    for name in ('train/circle', 'train/line', 'Valid/line', 'labels/circle'):
        save(tmp_path / name / '0.png')
    (tmp_path / 'README.txt').touch()
    found = read_data(tmp_path)
    assert found.classes == CLASSES and {item.split for item in found.items} == {'train', 'val'}
    assert found.notes[-1].endswith('left out is what lies beside them: labels.')
    # Vehicles: a class may be called train.
    for name in ('train', 'bus'):
        save(tmp_path / 'vehicles' / name / '0.png')
    assert read_data(tmp_path / 'vehicles').classes == ('bus', 'train')


def test_nothing_but_other_files_is_an_error_that_names_them(tmp_path):
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat' / '1.heic').touch()
    with pytest.raises(ValueError, match=r'no image in .* 1 \.heic \(cat/1\.heic\)'):
        read_data(tmp_path)
