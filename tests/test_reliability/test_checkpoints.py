"""The newest readable checkpoint is found, and hooks keep their state where publishing drops it."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from tests.forked import run_tool
from tl_plugin.reliability.checkpoints import (
    BrokenCheckpointError,
    check_resumable,
    newest_whole_checkpoint,
    read_whole,
    save_hook_state,
    saved_hook_state,
)
from tl_plugin.reliability.files import WholeFileBackend, remove_leftovers, write_whole


def save(path, age=0, **content):
    weights = {'weight': torch.arange(1000.0)}
    content = {'state_dict': weights, 'meta': dict(epoch=1, iter=2), 'optimizer': {}, **content}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte_of_the_weights(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b'')


@pytest.mark.parametrize('damage', [truncate, flip_a_byte_of_the_weights, empty])
def test_a_damaged_newest_one_is_passed_over(damage, tmp_path):
    assert newest_whole_checkpoint(tmp_path) is None
    older = save(tmp_path / 'epoch_9.pth', age=2)
    newer = save(tmp_path / 'epoch_10.pth', age=1)
    (tmp_path / 'last_checkpoint').write_text(str(newer))
    assert newest_whole_checkpoint(tmp_path) == newer
    damage(newer)
    assert newest_whole_checkpoint(tmp_path) == older
    with pytest.raises(BrokenCheckpointError, match=r'epoch_10\.pth'):
        check_resumable(newer)


def test_what_no_run_can_go_on_from(tmp_path):
    save(tmp_path / 'best_accuracy_epoch_3.pth')
    weights = save(tmp_path / 'epoch_3.pth', optimizer=None)
    assert newest_whole_checkpoint(tmp_path) is None
    assert newest_whole_checkpoint(tmp_path, resumable=False) == weights
    with pytest.raises(BrokenCheckpointError, match='no optimizer'):
        check_resumable(weights)
    with pytest.raises(BrokenCheckpointError, match='load_from'):
        check_resumable(save(tmp_path / 'published.pth', meta=None))


def test_the_pointer_leads_to_another_folder_and_survives_a_move(tmp_path):
    elsewhere = tmp_path / 'elsewhere' / 'run'
    elsewhere.mkdir(parents=True)
    run = tmp_path / 'run'
    run.mkdir()
    found = save(elsewhere / 'iter_7.pth')
    (run / 'last_checkpoint').write_text(str(found))
    assert newest_whole_checkpoint(run) == found
    here = save(run / 'epoch_1.pth')
    (run / 'last_checkpoint').write_text('work_dirs/old/epoch_1.pth')
    assert newest_whole_checkpoint(run) == here
    (run / 'last_checkpoint').write_text('')
    assert newest_whole_checkpoint(run) == here


def test_files_of_one_time_are_told_apart_by_their_number(tmp_path):
    for number in (9, 10, 2):
        save(tmp_path / f'epoch_{number}.pth')
    assert newest_whole_checkpoint(tmp_path).name == 'epoch_10.pth'


class Attack:
    def __reduce__(self):
        return os.system, ('touch /tmp/never',)


def test_more_than_data_is_refused_without_advice(tmp_path):
    path = save(tmp_path / 'epoch_1.pth', meta=Attack())
    with pytest.raises(BrokenCheckpointError, match=r'asks for \S*system') as error:
        read_whole(path)
    assert 'weights_only' not in str(error.value)
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(BrokenCheckpointError, match=r'asks for \S*system'):
        read_whole(tmp_path / 'plain.pth')
    assert newest_whole_checkpoint(tmp_path) is None


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_whole(path, b'old')
    for name in ('fsync', 'replace'):
        with monkeypatch.context() as patch, pytest.raises(OSError, match='full'):
            patch.setattr(os, name, _full)
            write_whole(path, b'new')
        assert path.read_bytes() == b'old'
    assert [entry.name for entry in tmp_path.iterdir()] == ['file']
    write_whole(path, b'new')
    assert path.read_bytes() == b'new'


def _full(*_):
    raise OSError(28, 'the disk is full')


def test_a_kill_in_the_middle_leaves_the_old_file_and_a_leftover(tmp_path, tmp_path_factory):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')
    code = (
        'import os, signal, sys\n'
        'from tl_plugin.reliability.files import write_whole\n'
        'os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n'
        'write_whole(sys.argv[1], b"new")\n'
    )
    program = tmp_path_factory.mktemp('program') / 'killed.py'
    program.write_text(code)
    assert run_tool(program, path)[0] == -9
    assert path.read_bytes() == b'old'
    assert len(list(tmp_path.iterdir())) == 2
    assert len(remove_leftovers(tmp_path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ['epoch_1.pth']


def test_files_are_deleted_last_or_not_at_all(tmp_path):
    backend = WholeFileBackend()
    for name in 'abc':
        backend.put_text(name, tmp_path / name)
    with backend.deleting_last():
        backend.remove(tmp_path / 'a')
        with backend.deleting_last():
            backend.remove(tmp_path / 'b')
        assert backend.exists(tmp_path / 'a') and backend.exists(tmp_path / 'b')
    assert not backend.exists(tmp_path / 'a') and not backend.exists(tmp_path / 'b')
    with pytest.raises(OSError, match='full'), backend.deleting_last():
        backend.remove(tmp_path / 'c')
        _full()
    assert backend.get_text(tmp_path / 'c') == 'c'
    backend.remove(tmp_path / 'c')
    assert not backend.exists(tmp_path / 'c')


def test_states_lie_side_by_side():
    checkpoint = dict(state_dict={})
    save_hook_state(checkpoint, 'labels', [1])
    save_hook_state(checkpoint, 'best', {})
    assert checkpoint == dict(state_dict={}, hook_msgs=dict(labels=[1], best={}))
    assert saved_hook_state(checkpoint, 'labels') == [1]
    assert saved_hook_state(checkpoint, 'x') is None


def test_reading_leaves_a_bare_state_dict_alone():
    state = {'conv.weight': torch.ones(1)}
    assert saved_hook_state(state, 'labels') is None and list(state) == ['conv.weight']
    assert saved_hook_state(dict(hook_msgs=None), 'labels') is None
