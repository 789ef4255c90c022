from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models import ResNet
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from tl_plugin.engine.layers import LayerMap

from .networks import Block, Shuffled


class FullyShardedDataParallel(nn.Module):
    """Names and shards parameters as FSDP does; the real one needs an accelerator."""

    def __init__(self, module):
        super().__init__()
        self._fsdp_wrapped_module = module
        nested = {
            id(p)
            for part in module.modules()
            if isinstance(part, FullyShardedDataParallel)
            for p in part.parameters()
        }
        own = [p for p in module.parameters() if id(p) not in nested]
        shapes = [tuple(p.shape) for p in own]
        for value in own:
            value.data = value.data.flatten()[:1]
        self._handle = SimpleNamespace(flat_param=SimpleNamespace(_params=own, _shapes=shapes))

    def forward(self, x):
        raise RuntimeError('no forward pass on shards')


def depths(model, reference):
    found = LayerMap.from_model(model)
    return {name: found.depth(name) for name, _ in reference.named_parameters()}, found


def resnet():
    return nn.ModuleDict(
        dict(backbone=ResNet(18, base_channels=4, stem_channels=4), head=nn.Linear(32, 3))
    )


def test_fsdp_prefixes_and_shards():
    expected, _ = depths(resnet(), resnet())
    model = resnet()
    for stage in ('layer1', 'layer3'):
        for index, block in enumerate(getattr(model.backbone, stage)):
            getattr(model.backbone, stage)[index] = FullyShardedDataParallel(block)
    model.backbone = FullyShardedDataParallel(model.backbone)
    model = FullyShardedDataParallel(model)
    assert any('_fsdp_wrapped_module' in name for name, _ in model.named_parameters())

    found, layer_map = depths(model, resnet())

    assert found == expected
    assert all(layer_map.depth(name) in expected.values() for name, _ in model.named_parameters())
    assert layer_map.names(0) == [
        'backbone.conv1.weight',
        'backbone.bn1.weight',
        'backbone.bn1.bias',
    ]


def test_compile_and_checkpointing_prefixes():
    expected, _ = depths(Shuffled(), Shuffled())
    model = Shuffled()
    model.blocks[1] = checkpoint_wrapper(model.blocks[1])
    compiled = torch.compile(model)
    found, layer_map = depths(compiled, Shuffled())
    assert found == expected
    for name, _ in compiled.named_parameters():
        assert name.startswith('_orig_mod.')
        assert layer_map.depth(name) == layer_map.depth(name.split('_orig_mod.')[1])


def test_prefix_of_data_parallel_wrappers():
    expected, _ = depths(Shuffled(), Shuffled())
    wrapped = nn.DataParallel(Shuffled())  # unlike DDP it needs no process group
    found, layer_map = depths(wrapped, Shuffled())
    assert found == expected
    assert {layer_map.depth(name) for name, _ in wrapped.named_parameters()} == {0, 1, 2, 3, 4}
    assert layer_map.depth('module.stem.weight') == 0


def test_a_child_called_module_keeps_its_name():
    model = nn.Sequential()
    model.stem, model.module, model.last = nn.Linear(4, 4), Block(4), nn.Linear(4, 2)
    found = LayerMap.from_model(model)
    assert found.depth('module.scale') == 1
    with pytest.raises(KeyError):
        found.depth('scale')
