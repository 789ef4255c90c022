import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tl_plugin.engine.layers import LayerMap

BENCHMARKS = Path(__file__).parents[3] / 'tools' / 'benchmarks'


@pytest.mark.slow
def test_a_sample_of_the_stock_models_has_layers(tmp_path):
    out = tmp_path / 'sweep.json'
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / 'sweep_layers.py'), '--sample', '3', '--out', str(out)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    for library in ('timm', 'torchvision', 'mmpretrain'):
        assert len(found['results'][library]) == 3
        assert found['summary'][library]['passed'] >= 2
        assert found['summary'][library]['failed'] == 0


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import layer_checks

    return layer_checks


class Chain(nn.Sequential):
    """Three layers on images."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3))


def with_depths(depths):
    """A LayerMap of a Chain with made-up depths of its three modules."""
    names = [name for name, _ in Chain().named_parameters()]
    by_name = {name: depths[int(name[0])] for name in names}
    return LayerMap(by_name, max(depths) + 1, {name: frozenset() for name in names}, {})


def test_the_checks_of_the_sweep_pass_what_is_right(checks):
    layers, found = checks.problems(
        Chain(), head=['2.weight', '2.bias'], groups={'0.weight': 0, '1.weight': 1, '2.bias': 2}
    )
    assert layers.num_layers == 3
    assert found == []


@pytest.mark.parametrize(
    'depths, message',
    [
        ((1, 0, 2), 'run after'),
        ((0, 0, 1), 'hold'),
        ((2, 1, 0), 'timm has 0.weight before'),
        ((0, 2, 1), 'the deepest layer is'),
    ],
)
def test_the_checks_of_the_sweep_notice_what_is_wrong(checks, monkeypatch, depths, message):
    monkeypatch.setattr(LayerMap, 'from_model', lambda model: with_depths(depths))
    _, found = checks.problems(
        Chain(), head=['2.weight', '2.bias'], groups={'0.weight': 0, '1.weight': 1, '2.bias': 2}
    )
    assert any(message in problem for problem in found), found


def test_weights_of_swept_models_take_no_memory(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from stock_models import weightless

    with weightless():
        model = nn.Linear(3, 3)
        assert torch.linspace(0, 1, 3)[1].item() == 0.5
    assert model.weight.is_meta
    assert not nn.Linear(3, 3).weight.is_meta
