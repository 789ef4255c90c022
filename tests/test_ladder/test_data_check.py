"""The data of a ladder are looked at before any rung trains."""

import pytest
from mmengine.config import Config

from tests.folders import CLASSES, WRAPPERS, folder, make_folders, make_list
from tl_plugin.ladder.target_labels import check_ladder_data


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp('data')
    source, _ = make_folders(base / 'src'), make_folders(base / 'tgt')
    make_list(base / 'src.txt', source)
    return base


def _ladder(dataset, **loaders):
    ladder = {f'{key}_dataloader': dict(dataset=own) for key, own in loaders.items()}
    return Config(dict(train_dataloader=dict(dataset=dataset), ladder=ladder))


@pytest.mark.parametrize('kind', WRAPPERS)
@pytest.mark.parametrize('key', ['target', 'labelled_target'])
def test_target_images_that_are_the_sources_are_refused(data, key, kind):
    listed = folder(
        '',
        ann_file=str(data / 'src.txt'),
        data_prefix=str(data / 'src'),
        metainfo=dict(classes=CLASSES),
    )
    own = dict(data_root=str(data / 'tgt'))
    where = rf'set ladder\.{key}_dataloader\.dataset\.data_prefix'
    with pytest.raises(ValueError, match=rf'the same images: \d+ of 12 images .*{where}'):
        check_ladder_data(_ladder(WRAPPERS[kind](listed), **{key: own}))
    cured = dict(own, data_prefix='', ann_file='')
    check_ladder_data(_ladder(WRAPPERS[kind](listed), **{key: cured}))


def test_labelled_target_images_are_among_the_targets(data):
    own = dict(data_root=str(data / 'tgt'))
    check_ladder_data(_ladder(folder(data / 'src'), target=own, labelled_target=own))
    check_ladder_data(_ladder(folder(data / 'src')))


def test_a_list_that_cannot_be_read_is_named(data, tmp_path):
    (tmp_path / 'bad.txt').write_text('circle/000.png\n')
    broken = dict(data_root=str(data / 'tgt'), ann_file=str(tmp_path / 'bad.txt'))
    with pytest.raises(ValueError, match=r'bad\.txt, line 1: expected'):
        check_ladder_data(_ladder(folder(data / 'src'), labelled_target=broken))
