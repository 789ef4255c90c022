"""Checkpoints that are cut off, changed, of something else, or made to do harm."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.test_fuzz.refusal import examples, refused
from tl_plugin.models.backbones.weights import load_weights
from tl_plugin.reliability import load_report_hook
from tl_plugin.reliability.checkpoints import (
    BrokenCheckpointError,
    check_resumable,
    newest_whole_checkpoint,
    read_whole,
    weights_of,
)
from tl_plugin.reliability.initial_weights import read_pretrained

KIND = 'checkpoints'
NETWORK = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
CONTENT = dict(
    state_dict=NETWORK.state_dict(), meta=dict(epoch=1, iter=4), optimizer=dict(state={}, groups=[])
)


def as_bytes(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


WHOLE = as_bytes(CONTENT)
OLD = as_bytes(CONTENT, _use_new_zipfile_serialization=False)
NOT_WEIGHTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.just({}),
    st.tuples(st.integers()),
    st.dictionaries(st.text(max_size=4), st.integers(), min_size=1, max_size=2),
    st.dictionaries(st.integers(), st.just(torch.zeros(2)), min_size=1, max_size=2),
)


class Harm:
    """Pickles into a call of something else than data."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('checkpoints') / 'odd.pth'


def refuse(place, content, call, *culprits):
    place.write_bytes(content)
    return refused(KIND, lambda: call(place), *(culprits or (place.name,)))


def readers():
    return st.sampled_from(
        [
            read_whole,
            check_resumable,
            lambda path: read_pretrained(dict(checkpoint=path), 'x'),
            lambda path: load_weights(NETWORK, str(path)),
        ]
    )


@examples(40, KIND)
@given(part=st.floats(0, 0.999), old=st.booleans(), read=readers())
def test_cut_off(place, part, old, read):
    whole = OLD if old else WHOLE
    refuse(place, whole[: int(part * len(whole))], read)


@examples(60, KIND)
@given(at=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7), read=readers())
def test_a_changed_bit(place, at, bit, read):
    """Is noticed, unless it is none of what matters: a date, an attribute of the archive."""
    changed = bytearray(WHOLE)
    changed[at] ^= 1 << bit
    place.write_bytes(bytes(changed))
    try:
        found = weights_of(read_whole(place), place)
    except BrokenCheckpointError:
        refuse(place, bytes(changed), read)
    else:
        for name, value in NETWORK.state_dict().items():
            assert torch.equal(found[name], value)


@examples(30, KIND)
@given(content=st.binary(max_size=60), read=readers())
def test_bytes_of_something_else(place, content, read):
    refuse(place, content, read)


@examples(40, KIND)
@given(content=NOT_WEIGHTS, inside=st.booleans(), read=readers())
def test_no_weights(place, content, inside, read):
    if read is read_whole:
        read = check_resumable  # to read it is no matter, to use it is
    refuse(place, as_bytes(dict(state_dict=content) if inside else content), read)


@examples(30, KIND)
@given(
    change=st.one_of(
        st.builds(lambda value: dict(meta=value), NOT_WEIGHTS),
        st.builds(
            lambda value: dict(meta=dict(epoch=value, iter=1)),
            st.one_of(st.none(), st.text(max_size=3), st.integers(max_value=-1)),
        ),
        st.builds(
            lambda value: dict(optimizer=value),
            st.one_of(st.none(), st.integers(), st.lists(st.integers())),
        ),
    )
)
def test_nothing_to_resume_from(place, change):
    refuse(place, as_bytes({**CONTENT, **change}), check_resumable)
    assert newest_whole_checkpoint(place.parent) is None


@examples(30, KIND)
@given(
    prefix=st.from_regex(r'[a-z]{3,6}_', fullmatch=True),
    shape=st.lists(st.integers(5, 7), min_size=1, max_size=3),
    some=st.sets(st.sampled_from(sorted(NETWORK.state_dict())), min_size=1),
)
def test_names_and_shapes_of_another_network(place, prefix, shape, some):
    state = NETWORK.state_dict()
    renamed = {f'{prefix}{name}': value for name, value in state.items()}
    refuse(place, as_bytes(renamed), lambda path: load_weights(NETWORK, str(path)))
    some -= {'1.num_batches_tracked'}
    reshaped = {n: torch.zeros(shape) if n in some else v for n, v in state.items()}
    if some:
        call = lambda path: load_weights(NETWORK, str(path))  # noqa: E731
        refuse(place, as_bytes(reshaped), call, *sorted(some))


@examples(20, KIND)
@given(state=NOT_WEIGHTS, prefix=st.from_regex(r'[a-z]{3,6}_', fullmatch=True))
def test_what_the_load_report_refuses(state, prefix):
    runner = types.SimpleNamespace(model=NETWORK, _resume=False, _load_from='start.pth')
    hook = load_report_hook.LoadReportHook()
    runner.hooks = [hook]
    refused(KIND, lambda: hook.after_load_checkpoint(runner, dict(state_dict=state)), 'start.pth')
    renamed = {f'{prefix}{name}': value for name, value in NETWORK.state_dict().items()}
    report = lambda: hook.after_load_checkpoint(runner, dict(state_dict=renamed))  # noqa: E731
    refused(KIND, report, prefix)


CALLS = [os.system, os.mkdir, eval, exec, subprocess.call, shutil.rmtree, __import__, getattr, open]


@examples(40, KIND)
@given(
    call=st.sampled_from(CALLS),
    read=readers(),
    old=st.booleans(),
    where=st.sampled_from(['alone', 'state_dict', 'meta', 'optimizer']),
)
def test_harm(place, call, read, old, where, tmp_path_factory):
    target = tmp_path_factory.getbasetemp() / 'harm'
    harm = Harm(call, f'open({str(target)!r}, "w")' if call in (eval, exec) else str(target))
    content = harm if where == 'alone' else {**CONTENT, where: harm}
    saved = as_bytes(content, _use_new_zipfile_serialization=not old)
    message = refuse(place, saved, read)
    # What stands in for getattr takes two arguments, and gets one here.
    assert 'refused' in message or (call is getattr and 'not whole' in message)
    assert not target.exists()


@examples(10, KIND)
@given(read=readers(), protocol=st.integers(0, 5))
def test_plain_pickles(place, read, protocol):
    refuse(place, pickle.dumps(CONTENT['meta'], protocol), read)
    refuse(place, pickle.dumps(Harm(os.system, 'true'), protocol), read)


@examples(10, KIND)
@given(name=st.from_regex(r'[a-z]{3,9}\.(pth|safetensors)', fullmatch=True), read=readers())
def test_no_file(place, name, read):
    refused(KIND, lambda: read(place.parent / f'gone_{name}'), name)


@examples(20, KIND)
@given(content=st.binary(max_size=80))
def test_safetensors(place, content):
    path = place.with_suffix('.safetensors')
    path.write_bytes(content)
    refused(KIND, lambda: load_weights(NETWORK, str(path)), path.name)
