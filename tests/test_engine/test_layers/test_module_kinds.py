"""Norm and stochastic-depth layers of every library are known, and nothing else passes for one."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath as MmcvDropPath
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.utils import LayerNorm2d as MmpretrainLayerNorm2d
from torch import nn

from tl_plugin.engine.layers.module_kinds import is_droppath, is_norm, norm_parameters


def norms():
    import timm.layers
    import torchvision

    return [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        build_norm_layer(dict(type='BN'), 4)[1],
        MmpretrainLayerNorm2d(4),
        timm.layers.LayerNorm2d(4),
        timm.layers.RmsNorm(4),
        timm.layers.BatchNormAct2d(4),
        timm.layers.EvoNorm2dB0(4),
        timm.layers.GroupNorm1(4),
        timm.layers.FrozenBatchNormAct2d(4),
        torchvision.ops.FrozenBatchNorm2d(4),
    ]


def others():
    import timm.layers

    return [
        nn.Linear(4, 4),
        nn.Identity(),
        nn.Dropout(),
        nn.Sequential(nn.BatchNorm2d(4)),
        LinearClsHead(4, 4),
        timm.layers.NormMlpClassifierHead(4, 4),
        timm.layers.ClNormMlpClassifierHead(4, 4),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    ]


@pytest.mark.parametrize('module', norms(), ids=lambda m: type(m).__name__)
def test_norms(module):
    assert is_norm(module) and not is_droppath(module)


@pytest.mark.parametrize('module', others(), ids=lambda m: type(m).__name__)
def test_no_norms(module):
    assert not is_norm(module) and not is_droppath(module)


def test_stochastic_depth():
    import timm.layers
    import torchvision

    for module in (
        MmcvDropPath(),
        timm.layers.DropPath(),
        torchvision.ops.StochasticDepth(0.1, 'row'),
    ):
        assert is_droppath(module) and not is_norm(module)


def test_affine_parameters_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4))
    expected = [*model[1].parameters(), *model[2].parameters()]
    assert norm_parameters(model) == {id(value) for value in expected}
    assert isinstance(expected[0], torch.Tensor)
