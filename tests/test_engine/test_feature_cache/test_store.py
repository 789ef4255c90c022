"""A cache is whole or not there, and a full disk is reported before anything is written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import namedtuple

import pytest
import torch

from tl_plugin.engine.feature_cache.store import FeatureStore, FeatureWriter, Leaf, known_caches

KEY = {'weights': '1'}
LAYOUT = [Leaf((2, 3), 'float32'), Leaf((), 'bfloat16')]
FEATURES = [torch.rand(5, 2, 3), torch.rand(5).bfloat16()]


def writer(root, layout=LAYOUT, rows=5):
    return FeatureWriter(root, KEY, 'name', rows, layout)


def write(root, lengths=(1, 1, 1, 1, 1)):
    own = writer(root)
    own.create()
    own.write(2, [leaf[2:] for leaf in FEATURES])
    own.write(0, [leaf[:2] for leaf in FEATURES])
    own.finish(torch.arange(5).split(lengths))
    return own.place


def test_what_was_written_is_read(tmp_path):
    store = FeatureStore(write(tmp_path, (2, 1, 1, 1, 0)))
    assert len(store) == 5 and store.key == KEY
    assert all(torch.equal(*pair) for pair in zip(store.leaves, FEATURES))
    assert [row.tolist() for row in store.labels] == [[0, 1], [2], [3], [4], []]
    assert known_caches(tmp_path) == {'name': KEY}


def test_the_file_is_mapped_and_safe_from_readers(tmp_path):
    place = write(tmp_path)
    FeatureStore(place).leaves[0].add_(1)
    assert torch.equal(FeatureStore(place).leaves[0], FEATURES[0])


def _die_while_writing(root):
    own = writer(root)
    own.create()
    own.write(0, FEATURES)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_write_is_no_cache(tmp_path):
    process = multiprocessing.get_context('fork').Process(
        target=_die_while_writing, args=(tmp_path,)
    )
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert process.exitcode == -signal.SIGKILL and left.name.endswith('.partial')
    assert known_caches(tmp_path) == {}
    with pytest.raises(ValueError, match='not a whole feature cache'):
        FeatureStore(left)
    assert write(tmp_path).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ['name']


def test_what_another_process_is_writing_stays(tmp_path):
    first, second = writer(tmp_path), writer(tmp_path)
    first.create()
    second.folder = tmp_path / '.name.elsewhere.1.partial'
    second.create()
    assert first.folder.is_dir()
    first.abandon()
    assert not first.folder.exists()


@pytest.mark.parametrize('name', ['0.bin', 'features.json', 'labels.pth'])
def test_a_damaged_cache_is_refused(tmp_path, name):
    place = write(tmp_path)
    path = place / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match='not a whole feature cache'):
        FeatureStore(place)


def test_a_full_disk_is_reported_first(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(100))
    with pytest.raises(OSError, match=r'5 images need .*cache_dir to another disk'):
        writer(tmp_path).create()
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_are_named(tmp_path):
    own = writer(tmp_path)
    own.create()
    with pytest.raises(ValueError, match='one size'):
        own.write(0, [torch.rand(5, 2, 4), FEATURES[1]])
