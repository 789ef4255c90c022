"""A user's mistake ends a tool with its message alone; a defect keeps its traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS, OPTIMIZERS

from tl_plugin.intake.config_writer import even_batches
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.mistakes import run_main


def _options(config, options):
    Config(config).merge_from_dict(options)


MISTAKES = {
    'Did you mean': lambda: load_config('mmpretrain::resnet/resnet18_8xb32_in1k.py', ['fine_tun']),
    'no config file at': lambda: load_config('nowhere.py'),
    'Nothing is not in the': lambda: MODELS.build(dict(type='Nothing')),
    "argument: 'in_channels'": lambda: MODELS.build(dict(type='LinearClsHead', num_classes=2)),
    'Invalid learning rate': lambda: OPTIMIZERS.build(
        dict(type='SGD', lr=-1, params=[torch.ones(1)])
    ),
    "argument 'max_epoch'": lambda: Runner.build_train_loop(
        Mock(), dict(by_epoch=True, max_epoch=3)
    ),
    'exceeds the length of list': lambda: _options(dict(a=[1]), {'a.7': 2}),
    "'/nowhere/data'": Path('/nowhere/data').read_bytes,
}


@pytest.mark.parametrize('message', MISTAKES)
def test_a_mistake_ends_with_its_message_and_code_2(message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    with pytest.raises(SystemExit) as ended:
        run_main(MISTAKES[message])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and ': error: ' in said and message in said
    recorded = json.loads((tmp_path / 'error.json').read_text())['message']
    assert message.strip("'") in recorded['message'], 'torchrun shows it'
    assert 'Traceback' not in recorded['extraInfo']['py_callstack']
    assert 'Traceback' not in said and not said.partition('error: ')[2].startswith('"')


@pytest.mark.parametrize(
    'defect',
    [
        lambda: even_batches(5, 'two', least=1),  # raised by Python, in the code of the package
        lambda: {}['key'],
        lambda: Config({}).model,
    ],
)
def test_a_defect_keeps_its_traceback(defect):
    with pytest.raises((TypeError, KeyError, AttributeError)):
        run_main(defect)


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv('TL_PLUGIN_TRACEBACK', '1')
    with pytest.raises(FileNotFoundError, match='no config file') as raised:
        run_main(MISTAKES['no config file at'])
    assert raised.traceback[-1].name == 'config_file'


def test_what_a_tool_returns_is_its_exit_code():
    run_main(lambda: None)
    for code in (0, 3):
        with pytest.raises(SystemExit) as ended:
            run_main(partial(int, code))
        assert ended.value.code == code
