"""Checkpoints of mmengine load under torch's safe default, and loading one runs no code."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import subprocess
import sys
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import get_safe_globals

from tests.programs import run_program
from tests.toy import STOCK, toy_config, train
from tl_plugin.reliability.fault_tolerance import make_fault_tolerant
from tl_plugin.stack.safe_globals import HISTORY_METHODS, checkpoint_globals, safe_globals
from tl_plugin.stack.safe_loading import load_safely


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder in which a real Runner trained for an epoch, and its checkpoint."""
    work_dir = tmp_path_factory.mktemp('trained')
    train(toy_config(work_dir, max_epochs=1))
    return work_dir / 'epoch_1.pth'


def test_the_import_leaves_the_process_as_it_was(trained):
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(trained)
    code = (
        'import torch, mmengine.runner, mmpretrain.models; '
        'before = set(torch.serialization.get_safe_globals()); import tl_plugin; '
        'assert set(torch.serialization.get_safe_globals()) == before'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


REGISTER = """
import numpy as np, torch
from mmengine.logging import HistoryBuffer
try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct, scalar
def register():
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, _reconstruct, scalar, getattr, bytes,
         type(np.dtype('f8'))])
"""
READ = """
from mmengine.runner import CheckpointLoader
from tl_plugin.reliability.checkpoints import read_whole
for read in (read_whole, CheckpointLoader.load_checkpoint):
    history = read(PATH)['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer and len(history.data[0]) == 3
torch.load(OTHER)
"""


@pytest.mark.parametrize(
    'lines', [('register()', 'import tl_plugin'), ('import tl_plugin', 'register()')]
)
def test_what_others_register_changes_nothing(trained, tmp_path, lines):
    other = tmp_path / 'other.pth'
    torch.save(np.float64(1), other)
    names = f'PATH, OTHER = {str(trained)!r}, {str(other)!r}'
    code = '\n'.join([names, REGISTER, *lines, READ])
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_scope_ends_as_it_began():
    before = set(get_safe_globals())
    with pytest.raises(KeyError), checkpoint_globals():
        with checkpoint_globals():
            pass
        assert set(safe_globals()[:1]) <= set(get_safe_globals())
        raise KeyError
    assert set(get_safe_globals()) == before


@pytest.mark.filterwarnings('ignore:TypedStorage')
def test_history_of_a_runner_is_read_whole(trained):
    safe = load_safely(trained)['message_hub']['log_scalars']
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
    saved = load_safely(trained)['state_dict']
    for name, value in runner.model.named_parameters():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)


def test_mmengine_publishes_the_best_and_the_last_checkpoint(tmp_path):
    hook = dict(published_keys=['meta', 'state_dict'], save_best='accuracy/top1', interval=1)
    train(toy_config(tmp_path, max_epochs=1, options={'default_hooks.checkpoint': hook}))
    published = sorted(tmp_path.glob('*-*.pth'))
    assert len(published) == 2
    for path in published:
        assert set(load_safely(path)) == {'meta', 'state_dict'}


def test_what_the_launch_writes_is_read_by_everybody(tmp_path):
    """By torch alone, by mmpretrain's tool in a process of its own, and by mmengine in ours."""
    cfg = make_fault_tolerant(toy_config(tmp_path, max_epochs=1))
    cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    runner = train(cfg)
    path = tmp_path / 'epoch_1.pth'
    plain = torch.load(path)
    assert type(plain['message_hub']['runtime_info']['best_score']) is float
    tool = STOCK.parent / 'tools' / 'model_converters' / 'publish_model.py'
    out = tmp_path / 'published'
    out.mkdir()
    code, said = run_program(tool, path, out / 'model.pth')
    assert code == 0, said
    (published,) = out.iterdir()
    assert set(torch.load(published)) == {'meta', 'state_dict'}
    options = {'resume': True, 'load_from': str(path)}
    resumed = make_fault_tolerant(toy_config(tmp_path / 'more', max_epochs=2, options=options))
    before = runner.message_hub.get_scalar('train/loss').data
    now = train(resumed).message_hub.get_scalar('train/loss').data
    for ours, theirs in zip(now, before):
        assert ours.dtype == theirs.dtype and len(ours) == 2 * len(theirs)
        np.testing.assert_array_equal(ours[: len(theirs)], theirs)


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
    loaded = _plain(load_safely(path)['value'])
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
    loaded = load_safely(old)
    assert loaded['value'].mean() == 1 and loaded['best'] == 2


def test_a_loaded_array_is_ordinary_from_the_first_operation_on(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(np.arange(4.0), path)
    array = load_safely(path)
    assert isinstance(array, np.ndarray)
    for result in (array + 1, array.mean(0, keepdims=True), np.append(array, 1), np.array(array)):
        assert type(result) is np.ndarray
    assert type(array.sum()) is np.float64
    torch.save(array, path)
    with checkpoint_globals():
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
    'short scalar': lambda marker: Call(np.float64(1).__reduce__()[0], np.dtype('f8'), b'\0' * 4),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_an_attack_is_refused_and_runs_nothing(attack, tmp_path):
    marker, path = tmp_path / 'it_ran', tmp_path / 'checkpoint.pth'
    methods = dict(HistoryBuffer._statistics_methods)
    torch.save({'state_dict': {}, 'value': ATTACKS[attack](marker)}, path)
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        load_safely(path)
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
        load_safely(path)


def test_a_checkpoint_cannot_change_the_statistics_of_other_buffers(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    with mock.patch.object(HistoryBuffer, '_statistics_methods', {'mean': HistoryBuffer.max}):
        torch.save(HistoryBuffer([1.0], [1]), path)
    with pytest.raises(ValueError, match='registered statistics'):
        load_safely(path)
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
        load_safely(path)
    assert 'weights_only' not in str(caught.value)


def test_nothing_but_the_stand_ins_was_allowed():
    names = {name for _, name in safe_globals()}
    for stand_in in (builtins.getattr, np.ndarray, np.dtype, HistoryBuffer, bytes):
        assert stand_in not in [allowed for allowed, _ in safe_globals()]
    assert names >= {'builtins.getattr', 'numpy.ndarray', 'numpy.dtype'}
    assert {HistoryBuffer._statistics_methods[name].__name__ for name in HISTORY_METHODS} == set(
        HISTORY_METHODS
    )
