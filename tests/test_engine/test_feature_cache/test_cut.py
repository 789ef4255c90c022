"""Where a forward pass may be cut, and that it is never cut where something leaks past."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from tl_plugin.engine.feature_cache.cut import find_cut

IMAGES = torch.rand(3, 3, 8, 8)


class Network(BaseModel):
    """A stem, three blocks and a head, put together in several ways."""

    def __init__(self, wiring='chain') -> None:
        super().__init__()
        self.wiring = wiring
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.act = nn.ReLU()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        first = x = self.act(self.stem(inputs))
        for block in self.blocks[:2]:
            x = self.act(block(x))
        if self.wiring == 'batch':
            x = x - x.mean(0, keepdim=True)
            x = self.act(x)
        x = self.act(self.blocks[2](x))
        if self.wiring == 'skip':
            x = x + first
        if self.wiring == 'image':
            x = x + inputs.mean()
        loss = self.head(self.norm(x).mean((2, 3))).square().mean()
        return {'loss': loss}


def frozen(count, wiring='chain'):
    network = Network(wiring)
    for block in [network.stem, *network.blocks][:count]:
        block.requires_grad_(False)
    return network


def cut_of(network, images=IMAGES):
    return find_cut(network, dict(inputs=images, data_samples=[0] * len(images)), nullcontext)


def gradients(network, images):
    return torch.autograd.grad(
        network(images)['loss'], [v for v in network.parameters() if v.requires_grad]
    )


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_a_chain_is_cut_behind_the_last_frozen_block(count):
    network = frozen(count)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cut = cut_of(network)
    assert cut.name == 'act' and len(cut._modules) == 2 * count
    images = torch.rand(5, 3, 8, 8)
    features = cut.run(dict(inputs=images))
    wanted = gradients(network, images)
    network.norm.reset_running_stats()
    with cut.replayed(features):
        found = gradients(network, cut.images(5))
    assert all(torch.equal(*pair) for pair in zip(found, wanted))
    network.norm.reset_running_stats()
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_modules_run_again_after_a_replay():
    network = frozen(2)
    cut = cut_of(network)
    loss = network(IMAGES)['loss']
    with cut.replayed(cut.run(dict(inputs=IMAGES))):
        network(cut.images(3))
    assert torch.isfinite(loss) and torch.equal(network(IMAGES)['loss'], loss)
    assert 'forward' not in vars(network.act) and torch.isnan(cut.images(3)).all()


def test_another_forward_pass_than_before_is_an_error():
    network = frozen(2)
    cut = cut_of(network)
    network.blocks = network.blocks[1:]
    with pytest.raises(RuntimeError, match='not the one for which'), cut.replayed(cut.features):
        network.act(network.stem(IMAGES))


def test_a_shortcut_around_the_cut_moves_it():
    assert cut_of(frozen(4, 'chain')).covered[-1] == 'blocks.2'
    skip = cut_of(frozen(3, 'skip'))
    assert skip.name == 'act' and skip.covered == ['stem', 'act']


def test_trained_layers_that_see_the_images_prevent_it():
    with pytest.raises(ValueError, match=r'no point.*feature_extraction, which caches nothing'):
        cut_of(frozen(3, 'image'))


def test_nothing_frozen():
    with pytest.raises(ValueError, match='no point behind which'):
        cut_of(frozen(0))


def test_features_that_depend_on_the_batch_are_none():
    cut = cut_of(frozen(4, 'batch'))
    assert 'blocks.2' not in cut.covered


def test_statistics_that_move_are_no_part_of_it():
    network = frozen(4)
    network.norm.requires_grad_(False)
    assert cut_of(network).name == 'act'
    network.norm.eval()
    assert cut_of(network).name == 'norm'
