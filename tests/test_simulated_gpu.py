"""Training steps on a simulated GPU: one device, no wait, no half-precision svd."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from tests.simulated_gpu import (
    HalfPrecision,
    HostSync,
    autocast,
    simulate_step,
    simulated_gpu,
    to_gpu,
)
from tests.toy import target, toy_config

#: Overlays that train on a source and a target.
ADAPTATIONS = [
    *('afn', 'bsp', 'cdan', 'cdan_e', 'dan', 'dann', 'deep_coral', 'entropy_minimization'),
    *('information_maximization', 'jan', 'mcc', 'mdd', 'mean_teacher', 'pseudo_label'),
]
#: Overlays that train on one domain.
ONE_DOMAIN = [
    *('bss', 'delta', 'l2_sp', 'lwf', 'bottleneck', 'fine_tune', 'source_only'),
    *('feature_extraction', 'gradual_unfreeze', 'shot'),
]


@pytest.mark.parametrize('overlay', ADAPTATIONS + ONE_DOMAIN)
def test_step(overlay, tmp_path):
    options = target() if overlay in ADAPTATIONS else {}
    if overlay == 'shot':
        model = MODELS.build(toy_config(tmp_path).model)
        options['load_from'] = str(tmp_path / 'source.pth')
        torch.save(dict(state_dict=model.state_dict()), options['load_from'])
    cfg = toy_config(tmp_path, (overlay,), options, max_epochs=1)
    cfg.experiment_name = f'gpu_{overlay}_{tmp_path.name}'
    simulate_step(Runner.from_cfg(cfg))


class Planted(nn.Module):
    """Take a step with a fault."""

    def __init__(self, fault) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.fault, self.left_behind = fault, torch.ones(4)

    def forward(self, images):
        return self.fault(self, self.layer(images))


@pytest.mark.parametrize(
    'fault, error',
    [
        (lambda module, x: x + module.left_behind, RuntimeError),
        (lambda module, x: x.sum().item(), DataDependentOutputException),
        (lambda module, x: bool(x.sum() > 0), DataDependentOutputException),
        (lambda module, x: x[x > 0], DynamicOutputShapeException),
        (lambda module, x: x.detach().cpu(), HostSync),
        (lambda module, x: torch.linalg.svdvals(x), HalfPrecision),
        (lambda module, x: torch.linalg.eigvalsh(x), HalfPrecision),
    ],
    ids=['left_behind', 'item', 'bool', 'boolean_index', 'cpu', 'svd', 'eigh'],
)
def test_planted_fault_is_reported(fault, error):
    model = Planted(fault)
    with simulated_gpu(), autocast(torch.float16), pytest.raises(error):
        to_gpu(model)(torch.rand(4, 4, device='cuda'))


def test_planted_buffer_on_the_cpu_is_reported():
    class Stubborn(nn.Module):
        """Keep its buffer where it is."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer('table', torch.ones(2))

        def _apply(self, fn, recurse=True):
            return self

    with simulated_gpu(), pytest.raises(AssertionError, match='table stays on cpu'):
        to_gpu(nn.Sequential(Stubborn()))
