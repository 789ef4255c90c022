"""Training steps on a simulated GPU: one device, no wait, no half-precision svd."""

from __future__ import annotations

import re
from pathlib import Path

import mmpretrain.registry
import pytest
import torch
from mmengine.registry import Registry
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
from tl_plugin.evaluation.validators import SCORES
from tl_plugin.functional.cka import linear_gram, unbiased_hsic
from tl_plugin.functional.predictions import centroid_pseudo_labels
from tl_plugin.functional.spectral import (
    batch_spectral_penalty,
    batch_spectral_shrinkage,
    effective_rank,
    relative_spread,
)

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


#: Overlays that go with others, and what they are combined with.
COMBINED = [
    ('dann', 'bottleneck', 'dann_schedule'),
    ('fine_tune', 'similarity'),
    ('linear_probe_then_fine_tune',),
    ('fine_tune', 'retention'),
]
STEPS = [(overlay,) for overlay in ADAPTATIONS + ONE_DOMAIN] + COMBINED


@pytest.mark.parametrize('overlays', STEPS, ids='+'.join)
def test_step(overlays, tmp_path):
    take_step(overlays, tmp_path)


def test_step_with_a_batch_norm_for_each_domain(tmp_path):
    take_step(('dann',), tmp_path, {'model.domain_specific_bn': True})


def take_step(overlays, folder, options=()):
    """Simulate the first step of a run with overlays."""
    options = {**(target() if overlays[0] in ADAPTATIONS else {}), **dict(options)}
    if {'shot', 'similarity', 'retention'} & {*overlays}:
        model = MODELS.build(toy_config(folder).model)
        options['load_from'] = str(folder / 'source.pth')
        torch.save(dict(state_dict=model.state_dict()), options['load_from'])
    cfg = toy_config(folder, overlays, options, max_epochs=1)
    cfg.experiment_name = f'gpu_{"_".join(overlays)}_{folder.name}'
    simulate_step(Runner.from_cfg(cfg))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    'function',
    [
        lambda x: batch_spectral_penalty(x, x),
        batch_spectral_shrinkage,
        effective_rank,
        relative_spread,
        linear_gram,
        lambda x: unbiased_hsic(linear_gram(x), linear_gram(x)),
        lambda x: centroid_pseudo_labels(x, x.softmax(1)),
        *(lambda x, score=score: score(x.softmax(1)) for score in SCORES.values()),
    ],
    ids=[
        *('penalty', 'shrinkage', 'rank', 'spread', 'gram', 'hsic', 'centroids'),
        *SCORES,
    ],
)
def test_function(function, dtype):
    with simulated_gpu(), autocast(None if dtype == torch.float32 else dtype):
        assert function(torch.rand(6, 6, device='cuda', dtype=dtype)).is_cuda


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


BY_LOOP = 'moves no tensor itself; a real GPU run is needed to see its data flow'
BETWEEN_STEPS = 'works between steps, where reading values back is its purpose'
ON_HOST = 'works on files, images or options on the CPU'
#: Registered components that no simulated step holds -> the reason.
NOT_SIMULATED = {
    **dict.fromkeys(('AdaptationIterTrainLoop', 'SourceFreeIterTrainLoop'), BY_LOOP),
    **dict.fromkeys(('ResumableIterTrainLoop', 'CachedFeatureIterTrainLoop'), BY_LOOP),
    **dict.fromkeys(('CachedFeatureTrainLoop', 'CachedFeatureEpochTrainLoop'), BY_LOOP),
    **dict.fromkeys(('DomainValLoop', 'DomainTestLoop', 'NoTrainingLoop'), BY_LOOP),
    'InterpolationLoop': BY_LOOP,
    **dict.fromkeys(('FrozenAlignmentLoop', 'RelativeGradientNormHook'), BETWEEN_STEPS),
    'SlowLayersFreezeHook': BETWEEN_STEPS,
    'LoRAClassifier': 'adds matrix products of parameters that lie beside the weights',
    'LoRAHook': ON_HOST,
    **dict.fromkeys(
        ('TestTimeClassifier', 'TestTimeAdaptationHook'), 'adapts in tests, not in steps'
    ),
    **dict.fromkeys(('AdaBNHook', 'CollapsedPredictionsHook', 'LabelShiftHook'), BETWEEN_STEPS),
    **dict.fromkeys(('ValidationRiskHook', 'LabelledOnly', 'TargetValidator'), BETWEEN_STEPS),
    **dict.fromkeys(('AtomicCheckpointHook', 'BadImagesHook', 'DataCheckHook'), ON_HOST),
    **dict.fromkeys(('ExactResumeHook', 'MonitorCheckHook', 'QualityMatchHook'), ON_HOST),
    **dict.fromkeys(('DigitsDataset', 'MNISTM', 'SeveralSources'), ON_HOST),
    **dict.fromkeys(('DegradeQuality', 'RepeatChannels'), ON_HOST),
    'FiniteLossHook': "reads each step's losses back, as mmengine's RuntimeInfoHook does before it",
    **dict.fromkeys(
        ('PooledTimmBackbone', 'PooledTorchvisionBackbone', 'DANNDigitsBackbone'),
        "holds only the layers of torch, timm or torchvision, which follow .to('cuda')",
    ),
}
#: What the loops and overlays of the simulated steps build without naming it.
IMPLIED = {
    *('AdaptationEpochTrainLoop', 'SourceFreeEpochTrainLoop', 'ResumableEpochTrainLoop'),
    *('DomainDataPreprocessor',),
}


def test_each_component_is_simulated_or_has_a_reason():
    registered = set()
    for registry in vars(mmpretrain.registry).values():
        if isinstance(registry, Registry):
            registry.import_from_location()
            registered |= {
                name
                for name, component in registry.module_dict.items()
                if component.__module__.startswith('tl_plugin')
            }
    folder = Path(__file__).parents[1] / 'configs' / 'strategies'
    code = [
        re.sub('#.*', '', (folder / f'{overlay}.py').read_text())
        for overlay in {overlay for overlays in STEPS for overlay in overlays}
    ]
    named = set(re.findall(r"(?:type|constructor)='(\w+)'", '\n'.join(code))) | IMPLIED
    assert not registered - named - NOT_SIMULATED.keys(), 'simulate these, or give a reason'
    assert not NOT_SIMULATED.keys() - registered, 'these are no longer registered'
    assert not NOT_SIMULATED.keys() & named, 'these are simulated and need no reason'
