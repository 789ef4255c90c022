"""Checkpoints of mmengine load under torch's safe default, and loading one runs no code."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import runpy
import sys
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import add_safe_globals, clear_safe_globals

from tests.toy import STOCK, toy_config, train
from tl_plugin._safe_globals import HISTORY_METHODS, safe_globals


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder in which a real Runner trained for an epoch, and its checkpoint."""
    work_dir = tmp_path_factory.mktemp('trained')
    train(toy_config(work_dir, max_epochs=1))
    return work_dir / 'epoch_1.pth'


def test_torch_alone_refuses_the_checkpoint_of_a_runner(trained):
    clear_safe_globals()
    try:
        with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
            torch.load(trained)
    finally:
        add_safe_globals(safe_globals())


@pytest.mark.filterwarnings('ignore:TypedStorage')
def test_history_of_a_runner_is_read_whole(trained):
    safe = torch.load(trained, weights_only=True)['message_hub']['log_scalars']
    with zipfile.ZipFile(trained) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith('data.pkl')]
        # Python's own unpickler is a reference without any stand-in.
        reference = _PlainUnpickler(io.BytesIO(archive.read(name))).load()
    expected = reference['message_hub']['log_scalars']
    assert set(safe) == set(expected) and 'train/loss' in safe
    for name, buffer in safe.items():
        assert type(buffer) is HistoryBuffer
        for ours, theirs in zip(buffer.data, expected[name].data):
            assert type(ours) is np.ndarray and ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert buffer.statistics('mean') == expected[name].statistics('mean')


class _PlainUnpickler(pickle.Unpickler):
    def persistent_load(self, pid):
        _, storage_type, _, _, size = pid
        return storage_type(size)


def test_resume_continues_the_history(trained, tmp_path):
    options = {'resume': True, 'load_from': str(trained)}
    runner = train(toy_config(tmp_path, max_epochs=2, options=options))
    assert runner.epoch == 2
    per_epoch = len(runner.train_dataloader)
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 2 * per_epoch


def test_load_from_takes_the_weights(trained, tmp_path):
    options = {'load_from': str(trained), 'optim_wrapper.optimizer.lr': 0.0}
    runner = train(toy_config(tmp_path, max_epochs=1, options=options))
    saved = torch.load(trained)['state_dict']
    for name, value in runner.model.named_parameters():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)


def test_mmengine_publishes_the_best_and_the_last_checkpoint(tmp_path):
    hook = dict(published_keys=['meta', 'state_dict'], save_best='accuracy/top1', interval=1)
    train(toy_config(tmp_path, max_epochs=1, options={'default_hooks.checkpoint': hook}))
    published = sorted(tmp_path.glob('*-*.pth'))
    assert len(published) == 2
    for path in published:
        assert set(torch.load(path)) == {'meta', 'state_dict'}


def test_mmpretrain_publishes_our_checkpoint(trained, tmp_path, monkeypatch):
    tool = STOCK.parent / 'tools' / 'model_converters' / 'publish_model.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), str(trained), str(tmp_path / 'model.pth')])
    runpy.run_path(str(tool), run_name='__main__')
    (published,) = tmp_path.glob('model_*.pth')
    assert 'message_hub' not in torch.load(published)


VALUES = {
    'history': HistoryBuffer([1.0, 2.5], [1, 2]),
    'empty history': HistoryBuffer(),
    'float': np.float64(3.5),
    'integer': np.int64(7),
    'flag': np.bool_(True),
    'text': np.str_('best'),
    'matrix': np.arange(6, dtype='i4').reshape(2, 3).T,
    'big-endian': np.arange(3, dtype='>f4'),
    'names': np.array(['cat', 'elephant']),
    'nothing': np.zeros((0, 3)),
    'one': np.array(5.0),
}


def _plain(value):
    return value.data if isinstance(value, HistoryBuffer) else value


@pytest.mark.parametrize('name', VALUES)
def test_what_a_checkpoint_may_hold_survives(name, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save({'value': VALUES[name]}, path)
    loaded = _plain(torch.load(path)['value'])
    for ours, theirs in zip(np.atleast_1d(loaded), np.atleast_1d(_plain(VALUES[name]))):
        np.testing.assert_array_equal(ours, theirs)
    assert np.shape(loaded) == np.shape(_plain(VALUES[name]))


def test_names_of_numpy_1_are_read(tmp_path):
    new, old = tmp_path / 'new.pth', tmp_path / 'old.pth'
    torch.save({'value': HistoryBuffer([1.0], [1]), 'best': np.float64(2)}, new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, 'w') as target:
        for entry in source.namelist():
            data = source.read(entry)
            target.writestr(entry, data.replace(b'numpy._core', b'numpy.core'))
    assert b'numpy.core.multiarray' in old.read_bytes()
    loaded = torch.load(old)
    assert loaded['value'].mean() == 1 and loaded['best'] == 2


def test_a_loaded_array_is_ordinary_from_the_first_operation_on(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(np.arange(4.0), path)
    array = torch.load(path)
    assert isinstance(array, np.ndarray)
    for result in (array + 1, array.mean(0, keepdims=True), np.append(array, 1), np.array(array)):
        assert type(result) is np.ndarray
    assert type(array.sum()) is np.float64
    torch.save(array, path)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    assert b'tl_plugin' not in path.read_bytes()


class Call:
    """Pickles as a call of ``function``, with what an attacker wants to follow it."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


FORGED_FLAGS = (3, '<', (np.dtype('f8'), (1000,)), None, None, -1, -1, 63)
ATTACKS = {
    'shell': lambda marker: Call(os.system, f'touch {marker}'),
    'eval': lambda marker: Call(eval, f'open({str(marker)!r}, "w")'),
    'open': lambda marker: Call(open, str(marker), 'w'),
    'attribute of the class': lambda marker: Call(getattr, HistoryBuffer, 'register_statistics'),
    'dunder of the class': lambda marker: Call(getattr, HistoryBuffer, '__init__'),
    'globals of a method': lambda marker: Call(
        getattr, Call(getattr, HistoryBuffer, 'min'), '__globals__'
    ),
    'attribute of a module': lambda marker: Call(getattr, 'os', 'system'),
    'attribute of a dict': lambda marker: Call(getattr, {}, 'min'),
    'default of getattr': lambda marker: Call(getattr, HistoryBuffer, 'min', HistoryBuffer),
    'object array over bytes': lambda marker: Call(np.ndarray, (1,), 'O', b'A' * 8),
    'array by its class': lambda marker: Call(np.ndarray, (4,)),
    'array of objects': lambda marker: np.array([{}], dtype=object),
    'records': lambda marker: np.zeros(2, dtype=[('a', 'f8')]),
    'object type': lambda marker: Call(np.dtype, 'O', False, True),
    'parsed type': lambda marker: Call(np.dtype, '1000f8', False, True),
    'forged type': lambda marker: Call(np.dtype, 'f8', False, True, state=FORGED_FLAGS),
    'bytes from a number': lambda marker: Call(bytes, 10**15),
    'history of something else': lambda marker: Call(HistoryBuffer, [1.0], [1]),
    'short scalar': lambda marker: Call(
        np.float64(1).__reduce__()[0], np.dtype('f8'), b'\0' * 4
    ),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_an_attack_is_refused_and_runs_nothing(attack, tmp_path):
    marker, path = tmp_path / 'it_ran', tmp_path / 'checkpoint.pth'
    methods = dict(HistoryBuffer._statistics_methods)
    torch.save({'state_dict': {}, 'value': ATTACKS[attack](marker)}, path)
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        torch.load(path)
    assert not marker.exists()
    assert HistoryBuffer._statistics_methods == methods
    assert np.dtype('f8').isnative and np.array([1.0]) + 1 == 2


@pytest.mark.parametrize(
    'change',
    [{'more': 1}, {'_log_history': [1.0]}, {'max_length': '1'}, {'statistics_methods': None}],
)
def test_a_history_with_other_parts_is_refused(change, tmp_path):
    class Forged(HistoryBuffer):
        def __getstate__(self):
            return {**super().__getstate__(), **change}

        def __reduce__(self):
            # Pickled by its class's name, as the original is.
            return copyreg.__newobj__, (HistoryBuffer,), self.__getstate__()

        __class__ = HistoryBuffer

    path = tmp_path / 'checkpoint.pth'
    torch.save(Forged([1.0], [1]), path)
    with pytest.raises(ValueError, match='refused to read'):
        torch.load(path)


def test_a_checkpoint_cannot_change_the_statistics_of_other_buffers(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    with mock.patch.object(HistoryBuffer, '_statistics_methods', {'mean': HistoryBuffer.max}):
        torch.save(HistoryBuffer([1.0], [1]), path)
    with pytest.raises(ValueError, match='registered statistics'):
        torch.load(path)
    assert HistoryBuffer([1.0, 2.0], [1, 1]).statistics('mean') == 1.5


def test_an_attack_through_load_from_is_refused(tmp_path):
    marker, path = tmp_path / 'it_ran', tmp_path / 'checkpoint.pth'
    torch.save({'state_dict': {}, 'value': ATTACKS['shell'](marker)}, path)
    with pytest.raises(pickle.UnpicklingError, match='system'):
        train(toy_config(tmp_path / 'run', max_epochs=1, options={'load_from': str(path)}))
    assert not marker.exists()


def test_a_refusal_does_not_advise_to_drop_the_protection(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(ATTACKS['dunder of the class'](None), path)
    with pytest.raises(ValueError, match='__init__') as caught:
        torch.load(path)
    assert 'weights_only' not in str(caught.value)


def test_nothing_but_the_stand_ins_was_allowed():
    names = {name for _, name in safe_globals()}
    for stand_in in (builtins.getattr, np.ndarray, np.dtype, HistoryBuffer, bytes):
        assert stand_in not in [allowed for allowed, _ in safe_globals()]
    assert names >= {'builtins.getattr', 'numpy.ndarray', 'numpy.dtype'}
    assert {HistoryBuffer._statistics_methods[name].__name__ for name in HISTORY_METHODS} == set(
        HISTORY_METHODS
    )
