"""One domain under two names is refused, whatever the names are."""

import os
import shutil

import pytest
from mmengine.config import Config

from tests.folders import CLASSES, WRAPPERS, build, folder, make_folders, make_list
from tl_plugin.reliability import data_identity
from tl_plugin.reliability.data_identity import (
    Overlap,
    check_evaluated,
    check_root,
    check_source_and_target,
    check_source_free,
    shared_images,
)

KEY = 'train_cfg.target_dataloader'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Source and target folders, and the source's images under other names."""
    base = tmp_path_factory.mktemp('data')
    source, other = make_folders(base / 'src', 4), make_folders(base / 'tgt', 4)
    make_list(base / 'src.txt', source)
    make_list(base / 'files.txt', source, absolute=True)
    os.symlink(source, base / 'link')
    for image in source.rglob('*.png'):  # by class, as tools make them
        place = base / 'links' / image.parent.name / f'linked_{image.name}'
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(image, place)
    shutil.copytree(other, base / 'both')
    for image in (source / 'line').iterdir():
        os.symlink(image, base / 'both' / 'line' / f'from_source_{image.name}')
    return base


def _listed(base, name='src.txt', **options):
    """The source by absolute paths."""
    options = {'data_root': '', 'data_prefix': str(base / 'src'), **options}
    return {**folder('', ann_file=str(base / name), metainfo=dict(classes=CLASSES)), **options}


@pytest.mark.parametrize('sampled', [False, True])
@pytest.mark.parametrize('name', ['src', 'link', 'links', '../{}/src', 'src/../src'])
def test_files_are_the_same_where_their_real_paths_are(data, name, sampled, monkeypatch):
    if sampled:  # as with many files
        monkeypatch.setattr(data_identity, '_FEW_FILES', 0)
        monkeypatch.setattr(data_identity, '_SAMPLE', 2)
    monkeypatch.chdir(data)
    source, same = build(folder(data / 'src')), build(folder(name.format(data.name)))
    found = shared_images(source, same)
    assert (found.shared, found.one, found.other) == (12, 12, 12)
    assert shared_images(build(folder('tgt')), same).shared == 0
    assert shared_images(build(_listed(data)), same).shared == 12
    assert shared_images(build(_listed(data, 'files.txt', data_prefix='')), same).shared == 12


def test_images_in_memory_are_the_same_where_their_pixels_are():
    def toys(**options):
        return build(dict(type='ToyDataset', **options))

    assert shared_images(toys(), toys(labels='none')) == Overlap(12, 12, 12)
    assert shared_images(toys(), toys(indices=5)) == Overlap(5, 12, 5)
    assert shared_images(toys(), toys(seed=1)) == Overlap(0, 12, 12)
    assert shared_images(toys(image_size=64), toys(image_size=64, shift=0.1)).shared == 0
    assert shared_images(toys(), [1, 2]) is None


@pytest.mark.parametrize('kind', WRAPPERS)
def test_a_target_inside_of_the_source_is_refused(data, kind):
    source = build(WRAPPERS[kind](folder(data / 'src')))
    with pytest.raises(ValueError, match=r'the source and the target are the same images: \d+ of'):
        check_source_and_target(source, build(folder(data / 'links')), KEY)
    check_source_and_target(source, build(folder(data / 'tgt')), KEY)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_an_absolute_path_that_a_target_inherits_is_named_and_the_cure_works(data, wrapper):
    cfg = Config(
        dict(
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler'),
                dataset=WRAPPERS[wrapper](_listed(data)),
            )
        )
    )
    root = str(data / 'tgt')
    with pytest.raises(ValueError) as caught:
        _loop(cfg, {'data_root': root})
    message = str(caught.value)
    assert '12 of 12 images of the target' in message or '9 of 12 images of the target' in message
    assert f"data_root='{root}'" in message and str(data / 'src.txt') in message
    assert f'set {KEY}.dataset.data_prefix, too' in message
    for advice in ({'data_root': root, 'data_prefix': ''}, {'data_prefix': root}):
        assert len(_loop(cfg, advice)) == 12


def _loop(cfg, options):
    """The target's images as the loop has them."""
    from tl_plugin.engine.loops import inherit_dataloader

    found = inherit_dataloader(cfg.train_dataloader, dict(dataset=options), KEY)
    source, dataset = build(cfg.train_dataloader.dataset), build(found['dataset'])
    check_source_and_target(source, dataset, KEY)
    return dataset


def test_a_list_of_a_few_that_becomes_its_whole_folder_is_refused_too(data, tmp_path):
    dataset = build(folder(data / 'tgt', data_prefix=str(data / 'src')))
    (tmp_path / 'few.txt').write_text('line/000.png 1\n')
    source = build(_listed(tmp_path, 'few.txt', data_prefix=str(data / 'src')))
    with pytest.raises(ValueError, match=r'1 of 12 images of the target.* keeps data_root'):
        check_source_and_target(source, dataset, KEY)


def test_a_few_shared_images_are_counted(data, logged):
    check_source_and_target(build(folder(data / 'src')), build(folder(data / 'both')), KEY)
    (message,) = logged
    assert '4 of 16 images of the target' in message and f'target alone in {KEY}' in message


def test_labelled_target_images_among_the_source_are_no_mistake(data, logged):
    few = folder(data / 'tgt', indices=3)
    source = build(dict(type='SeveralSources', datasets=[folder(data / 'src'), few]))
    check_source_and_target(source, build(folder(data / 'tgt')), KEY)
    assert '3 of 12 images of the target are also among the labelled images' in logged[0]
    every = build(
        WRAPPERS['repeat'](
            dict(type='SeveralSources', datasets=[folder(data / 'src'), folder(data / 'tgt')])
        )
    )
    check_source_and_target(every, build(folder(data / 'tgt')), KEY)
    with pytest.raises(ValueError, match='12 of 12 images of the target'):
        check_source_and_target(every, build(folder(data / 'src')), KEY)


def _domains(one, other, **options):
    check_evaluated('source', build(one), 'target', build({**other, **options}), 'val_cfg.k')


def test_evaluated_domains_differ_in_images_or_in_what_is_done_to_them(data, logged):
    source = folder(data / 'src')
    with pytest.raises(ValueError, match='source and target are the same images: 12 of 12 images'):
        _domains(source, folder(data / 'links'))
    with pytest.raises(ValueError, match=r'set val_cfg\.k\.dataset\.data_prefix and val_cfg\.k'):
        _domains(_listed(data), _listed(data), data_root=str(data / 'tgt'))
    with pytest.raises(ValueError, match=r'The absolute ann_file that target inherits keeps'):
        _domains(
            _listed(data, 'files.txt', data_prefix=''),
            _listed(data, 'files.txt', data_prefix=''),
            data_root='tgt',
        )
    assert not logged
    flipped = [source['pipeline'][0], dict(type='RandomFlip', prob=1.0), source['pipeline'][1]]
    _domains(source, source, pipeline=flipped)
    _domains(source, source, indices=5)
    _domains(WRAPPERS['fold'](source), dict(WRAPPERS['fold'](source), test_mode=True))
    assert ['12 of 12 images' in message for message in logged] == [True, False]
    assert 'through another pipeline' in logged[0] and '5 of 5' in logged[1]


def test_a_validation_of_a_run_without_source_images(data):
    check_source_free(build(folder(data / 'tgt')), build(folder(data / 'src')))
    line = folder(data / 'src' / 'line', with_label=False)
    with pytest.raises(ValueError, match="calls 4 of 4 images of it the domain 'source'"):
        check_source_free(build(folder(data / 'both')), build(line))


def test_a_root_without_effect(data, monkeypatch):
    check_root(build(_listed(data, data_root=str(data))), 'train_dataloader')
    monkeypatch.chdir(data)
    with pytest.raises(ValueError, match=r"dataset\.data_root='tgt' has no effect"):
        check_root(build(_listed(data, data_root='tgt')), 'train_dataloader')
    cured = folder('tgt', data_prefix='')
    check_root(build(cured), 'train_dataloader')


@pytest.fixture
def logged(monkeypatch):
    found = []
    monkeypatch.setattr(data_identity, 'print_log', lambda text, *_, **__: found.append(text))
    return found
