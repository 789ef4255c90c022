"""Checkpoints of other programs: what is plain data is read, the rest gets a command that works."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.toy import toy_config, train
from tl_plugin.models.backbones.weights import load_weights
from tl_plugin.reliability.checkpoints import read_whole, weights_of
from tl_plugin.stack.foreign_weights import extract_weights, find_weights
from tl_plugin.stack.safe_loading import BrokenCheckpointError

NETWORK = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))
STATE = NETWORK.state_dict()


def command_in(error):
    return str(error.value).splitlines()[-1].strip()


def obey(error):
    """Does what a message says, without the seconds that an interpreter of its own takes."""
    interpreter, flag, code = shlex.split(command_in(error))
    assert (interpreter, flag) == (sys.executable, '-c')
    exec(code, {})


def assert_written(folder, name='start_weights.pth'):
    written = torch.load(folder / name)['state_dict']
    assert set(written) == set(STATE)
    assert all(torch.equal(value, STATE[key]) for key, value in written.items())


class Settings:
    """Stands for the config class of some package: no data for torch, but no harm either."""

    def __init__(self):
        self.lr = 0.1


@pytest.mark.parametrize('key', ['model', 'model_state_dict', 'teacher', 'ema_state_dict', 'net'])
def test_the_command_brings_weights_where_mmengine_looks(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({key: STATE, 'args': argparse.Namespace(lr=0.1), 'epoch': 3}, "it's a start.pth.tar")
    with pytest.raises(BrokenCheckpointError, match=f"its weights under '{key}'") as error:
        weights_of(read_whole("it's a start.pth.tar"), "it's a start.pth.tar")
    if key == 'teacher':  # the others differ by a word
        subprocess.run(command_in(error), shell=True, check=True)
        assert_written(tmp_path, "it's a start_weights.pth")
    else:
        extract_weights("it's a start.pth.tar", 'out.pth', key=key)
        assert_written(tmp_path, 'out.pth')


def test_a_pickled_model_is_refused_with_a_command_that_works(tmp_path):
    path = tmp_path / 'start.pt'
    torch.save(dict(ema=NETWORK, epoch=1), path)
    with pytest.raises(BrokenCheckpointError, match='more than data') as error:
        load_weights(NETWORK, str(path))
    text = str(error.value)
    assert 'Only if you trust' in text and 'torch.nn.modules.conv.Conv2d' in text
    assert 'weights_only' not in text
    obey(error)
    assert_written(tmp_path)
    load_weights(NETWORK, str(tmp_path / 'start_weights.pth'))


def test_a_pickled_model_of_old_gets_none(tmp_path):
    torch.save(NETWORK, tmp_path / 'start.pt', _use_new_zipfile_serialization=False)
    with pytest.raises(BrokenCheckpointError, match='which can not be taken apart') as error:
        read_whole(tmp_path / 'start.pt')
    assert 'extract_weights' not in str(error.value)


@pytest.mark.parametrize('old', [False, True])
def test_settings_of_another_package_get_a_command_too(old, tmp_path):
    content = dict(state_dict=STATE, config=Settings())
    torch.save(content, tmp_path / 'start.pth', _use_new_zipfile_serialization=not old)
    with pytest.raises(BrokenCheckpointError, match='Settings, more than data') as error:
        read_whole(tmp_path / 'start.pth')
    obey(error)
    assert_written(tmp_path)


def test_a_torchscript_program_gets_one(tmp_path):
    torch.jit.script(NETWORK).save(str(tmp_path / 'start.pt'))
    with pytest.raises(BrokenCheckpointError, match='TorchScript') as error:
        read_whole(tmp_path / 'start.pt')
    obey(error)
    assert_written(tmp_path)


def test_what_can_do_harm_gets_none(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, ('true',)

    torch.save(dict(state_dict=STATE, harm=Harm(), config=Settings()), tmp_path / 'start.pth')
    with pytest.raises(BrokenCheckpointError, match='can run anything on this machine') as error:
        read_whole(tmp_path / 'start.pth')
    assert 'extract_weights' not in str(error.value)


def test_a_class_of_the_script_itself_gets_none(tmp_path):
    code = 'import torch\nclass Net(torch.nn.Linear): pass\ntorch.save(Net(1, 1), "start.pt")'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
    with pytest.raises(BrokenCheckpointError, match=r'__main__\.Net is defined in the script') as e:
        read_whole(tmp_path / 'start.pt')
    assert 'extract_weights' not in str(e.value)


class Attribute:
    """Pickles as a namespace with something else than data in it."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return argparse.Namespace, (), self.state


@pytest.mark.parametrize('state', [{'a': len}, {'a': bytes}, {'a': int}, [1], {1: 2}])
def test_a_namespace_holds_plain_data_alone(state, tmp_path):
    torch.save(Attribute(state), tmp_path / 'start.pth')
    with pytest.raises(BrokenCheckpointError):
        read_whole(tmp_path / 'start.pth')


def test_the_averaged_weights_are_those_of_mmengine():
    ours = dict(meta=dict(mmengine_version='0.10.7'), state_dict=STATE, ema_state_dict={'a': STATE})
    assert find_weights(ours).key == 'state_dict'
    assert find_weights(dict(model=STATE, model_ema=STATE)) == (STATE, 'model_ema', ('model',))
    assert find_weights(dict(net=dict(ema=STATE, model=STATE))).others == ('net.model',)
    assert find_weights(dict(meta=dict(epoch=1))).state == {}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    train(toy_config(folder, max_epochs=1))
    return read_whole(folder / 'epoch_1.pth')['state_dict']


def start(folder, path, options=None):
    options = {
        'load_from': str(path) if path else None,
        'optim_wrapper.optimizer.lr': 0.0,
        'custom_hooks': [dict(type='LoadReportHook')],
        **(options or {}),
    }
    return train(toy_config(folder / 'run', options=options, max_epochs=1)).model.state_dict()


def assert_begun(found, trained, part='backbone.'):
    learned = [n for n in found if n.startswith(part) and n.endswith(('weight', 'bias'))]
    assert learned and all(torch.equal(found[name], trained[name]) for name in learned)


def test_the_command_for_a_model_inside_another_works(trained, tmp_path):
    path = tmp_path / 'start.ckpt'
    torch.save(dict(state_dict={f'model.{n}': v for n, v in trained.items()}), path)
    with pytest.raises(ValueError, match="They begin with 'model\\.' there") as error:
        start(tmp_path, path)
    obey(error)
    assert_begun(start(tmp_path, tmp_path / 'start_weights.pth'), trained, '')


@pytest.mark.parametrize('prefix', ['', 'module.encoder_q.'])
def test_the_cure_for_a_backbone_alone_works(prefix, trained, tmp_path):
    path = tmp_path / 'start.pth'
    inner = {n[len('backbone.') :]: v for n, v in trained.items() if n.startswith('backbone.')}
    torch.save(dict(state_dict={f'{prefix}{n}': v for n, v in inner.items()}), path)
    with pytest.raises(ValueError, match='one of a backbone alone') as error:
        start(tmp_path, path)
    advice = re.search(r'model\.backbone\.init_cfg=(dict\(.*\))', str(error.value))[1]
    found = start(tmp_path, None, {'model.backbone.init_cfg': eval(advice)})
    assert_begun(found, trained)


def test_the_cure_for_a_timm_backbone_works(tmp_path):
    timm = pytest.importorskip('timm')
    source, path = timm.create_model('test_resnet').state_dict(), tmp_path / 'start.pth'
    torch.save(dict(state_dict={f'module.{n}': v for n, v in source.items()}), path)
    model = dict(_delete_=True, type='PooledTimmBackbone', model_name='test_resnet')
    options = {'model.backbone': model, 'model.neck': None, 'model.head.in_channels': 96}
    with pytest.raises(ValueError, match='fits the network in the backbone') as error:
        start(tmp_path, path, options)
    given = re.search(r"model\.backbone\.checkpoint_path='(.*?)'", str(error.value))[1]
    options['model.backbone'] = {**model, 'checkpoint_path': given}
    found = start(tmp_path, None, options)
    prefix = 'backbone.timm_model.'
    assert_begun(found, {f'{prefix}{name}': value for name, value in source.items()}, prefix)
