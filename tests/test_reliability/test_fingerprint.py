"""Hashes of content: equal in every process, different for every change that matters."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose

from tests.toy import ToyDataset
from tl_plugin.reliability.fingerprint import files_fingerprint, fingerprint

STEPS = [dict(type='mmpretrain.RandomFlip', prob=0.5), dict(type='mmpretrain.PackInputs')]


class Transform:
    def __init__(self, **settings) -> None:
        self.settings = settings


class Slotted:
    __slots__ = ('value',)

    def __init__(self, value) -> None:
        self.value = value


@pytest.mark.parametrize(
    'values',
    [
        (1, 2, 1.0, True, '1', b'1', None),
        ({'a': 1}, {'a': 2}, {'b': 1}, {'a': 1, 'b': 1}, [('a', 1)]),
        ({1, 2}, {1, 3}, [1, 2], [2, 1], (2, 1, 1)),
        (np.zeros(2), np.zeros(3), np.zeros((1, 2)), np.zeros(2, np.float32), np.ones(2)),
        (torch.zeros(2), torch.zeros(2).bfloat16(), torch.ones(2), torch.tensor(0.0)),
        (Transform(size=3), Transform(size=4), Transform(), Slotted(3), Slotted(4)),
        (len, functools.partial(int, base=2), functools.partial(int, base=3), int, Transform),
        (np.array([1, 'a'], object), np.array([1, 'b'], object)),
        (['ab', 'c'], ['a', 'bc'], [['ab'], 'c'], ['ab', 'c', []]),
    ],
)
def test_what_differs_has_another_hash(values):
    hashes = [fingerprint(value) for value in values]
    assert len(set(hashes)) == len(values)
    assert hashes == [fingerprint(value) for value in values]


def test_objects_are_told_by_content_and_cycles_end():
    one, other = Transform(size=[3]), Transform(size=[3])
    one.me, other.me = one, other
    assert fingerprint(one) == fingerprint(other)
    other.settings['size'].append(4)
    assert fingerprint(one) != fingerprint(other)


def test_processes_agree():
    code = (
        'from tests.toy import ToyDataset; import tl_plugin\n'
        'from tl_plugin.reliability.fingerprint import fingerprint\n'
        "keys = {'blue', 'red', 'green', 'white', 'black'}\n"
        'print(fingerprint(keys, {k: 1 for k in keys}, ToyDataset(pipeline=[])))'
    )
    seed = '2' if os.environ.get('PYTHONHASHSEED') == '1' else '1'
    env = {**os.environ, 'PYTHONHASHSEED': seed, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys = {'blue', 'red', 'green', 'white', 'black'}
    here = fingerprint(keys, dict.fromkeys(keys, 1), ToyDataset(pipeline=[]))
    assert done.stdout.splitlines()[-1] == here


def test_a_data_set_counts_with_images_labels_and_transforms():
    def make(**changes):
        return ToyDataset(**{'pipeline': STEPS, **changes})

    again = make()
    again[0], again[3]
    other_flip = [dict(STEPS[0], prob=0.25), STEPS[1]]
    changed = [make(seed=1), make(labels='scrambled'), make(size=11), make(pipeline=other_flip)]
    assert fingerprint(make()) == fingerprint(again)
    assert len({fingerprint(data) for data in [make(), *changed]}) == 5
    assert fingerprint(Compose(STEPS)) != fingerprint(Compose(other_flip))


def test_an_image_file_that_was_changed_shows(tmp_path):
    class Files(list):
        def get_data_info(self, index):
            return {'img_path': self[index]}

    path = tmp_path / 'a.png'
    path.write_bytes(b'1')
    data = Files([str(path), 's3://bucket/b.png'])
    before = files_fingerprint(data)
    assert files_fingerprint(data) == before
    os.utime(path, ns=(0, 0))
    assert files_fingerprint(data) != before
    assert files_fingerprint([1, 2]) == files_fingerprint([3])  # names no files
