"""Training and evaluation on a simulated GPU: one device, no wait, no half-precision svd."""

from __future__ import annotations

import mmpretrain.registry
import pytest
import torch
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn

from tests.simulated_gpu import (
    BUILT,
    HalfPrecision,
    HostSync,
    MixedDevices,
    run_on_gpu,
    simulated_gpu,
    to_gpu,
    values,
)
from tests.toy import loader, target, toy_config, train
from tl_plugin.evaluation.validators import SCORES
from tl_plugin.functional import (
    batch_spectral_penalty,
    batch_spectral_shrinkage,
    black_box_shift,
    centroid_pseudo_labels,
    class_confusion,
    coral_loss,
    density_ratio,
    effective_rank,
    frechet_distance,
    linear_gram,
    marginal_entropy,
    relative_spread,
    unbiased_hsic,
)
from tl_plugin.reliability.fault_tolerance import make_fault_tolerant

#: Overlays that train on a source and a target.
ADAPTATIONS = [
    *('afn', 'bsp', 'cdan', 'cdan_e', 'dan', 'dann', 'deep_coral', 'entropy_minimization'),
    *('information_maximization', 'jan', 'mcc', 'mdd', 'mean_teacher', 'mic', 'pseudo_label'),
    *('adamatch', 'self_training'),
]
#: Overlays that train on one domain.
ONE_DOMAIN = [
    *('bss', 'delta', 'l2_sp', 'lwf', 'bottleneck', 'fine_tune', 'source_only', 'auto_rgn'),
    *('feature_extraction', 'gradual_unfreeze', 'shot', 'aad', 'feature_extraction_cached', 'lora'),
    *('robust_loss', 'early_learning', 'co_teaching', 'weighted_labels'),
]
#: Overlays that start from a trained model.
STARTED = ('aad', 'frozen_alignment', 'interpolation', 'retention', 'self_training', 'shot')
STARTED += ('similarity',)
#: Overlays that go with others, and what they are combined with.
COMBINED = [('dann', 'bottleneck', 'dann_schedule'), ('linear_probe_then_fine_tune',)]
COMBINED += [('gradual_unfreeze', 'skip_slow_layers'), ('cdan', 'mcc', 'sdat')]
STEPS = [(overlay,) for overlay in ADAPTATIONS + ONE_DOMAIN] + COMBINED

#: A validation of both domains.
BOTH = {
    'val_cfg': dict(
        type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5, seed=1)))
    )
}
IN_EACH_PRECISION = {'optim_wrapper.type': 'EachPrecisionOptimWrapper'}
WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


def config(folder, overlays, options=(), **length):
    """A run of three steps with overlays, from a checkpoint where they need one."""
    options = {**(target() if overlays[0] in ADAPTATIONS else {}), **dict(options)}
    if {*STARTED} & {*overlays}:
        options['load_from'] = checkpoint(folder, 'source')
    length = length or dict(max_epochs=1)
    cfg = toy_config(folder, overlays, options, **length)
    cfg.experiment_name = f'gpu_{"_".join(overlays)}_{folder.name}'
    return cfg


def checkpoint(folder, name):
    path = folder / f'{name}.pth'
    folder.mkdir(exist_ok=True)
    torch.manual_seed(len(name))
    torch.save(dict(state_dict=MODELS.build(toy_config(folder).model).state_dict()), path)
    return str(path)


@pytest.mark.parametrize('overlays', STEPS, ids='+'.join)
def test_steps_in_each_precision(overlays, tmp_path):
    options = {**IN_EACH_PRECISION, **WITHOUT_VALIDATION, 'default_hooks.checkpoint': None}
    if overlays == ('weighted_labels',):
        (tmp_path / 'labels.csv').write_text('file,given,right\ntrain/0,red,0.1\n')
        hook = dict(type='LabelWeightsHook', file=str(tmp_path / 'labels.csv'))
        options['custom_hooks'] = [hook]
    run_on_gpu(config(tmp_path, overlays, options))


def test_a_run_is_equal_to_the_bit_to_one_on_a_cpu(tmp_path):
    runs = [run(config(tmp_path / run.__name__, ('dann',))) for run in (run_on_gpu, train)]
    states = [values(runner.model.state_dict()) for runner in runs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    losses = [runner.message_hub.get_scalar('train/loss').data[0] for runner in runs]
    assert (losses[0] == losses[1]).all()


def test_validations_and_the_hooks_that_read_them(tmp_path):
    """Every score, count and comparison is that of the run on a CPU."""
    hooks = [
        dict(type='AdaBNHook'),
        dict(type='LabelShiftHook', reweight=True, method='em'),
        dict(type='CollapsedPredictionsHook', min_images=1),
        dict(type='ValidationRiskHook'),
        dict(type='RetentionHook'),
        dict(type='SimilarityHook', max_images=8, batch_size=4),
        dict(type='AdversaryMonitorHook', interval=1),
        dict(type='QualityMatchHook', corruptions=dict(noise=dict(severity=(1, 2)))),
    ]
    evaluator = [dict(type='LabelledOnly', metric=dict(type='Accuracy', topk=(1,)))]
    evaluator += [dict(type=name) for name in ('TargetValidator', 'CalibrationError')]
    options = {**BOTH, 'custom_hooks': hooks, 'val_evaluator': evaluator}
    options['load_from'] = checkpoint(tmp_path, 'source')
    options['test_cfg'] = dict(BOTH['val_cfg'], type='DomainTestLoop')
    options['test_evaluator'] = evaluator
    cfgs = [
        make_fault_tolerant(config(tmp_path / name, ('dann',), options, max_epochs=2))
        for name in ('gpu', 'cpu')
    ]
    runs = [run_on_gpu(cfgs[0], then=Runner.test), train(cfgs[1])]
    runs[1].test()
    found, expected = (
        {name: values.data[0] for name, values in runner.message_hub.log_scalars.items()}
        for runner in runs
    )
    assert any(name.startswith('test/target/') for name in found)
    assert found.keys() == expected.keys()
    for name, scalars in found.items():
        assert 'time' in name or scalars == pytest.approx(expected[name], 1e-4, 1e-5, nan_ok=True)


@pytest.mark.parametrize('overlay', ['dann', 'shot', 'aad', 'feature_extraction_cached'])
def test_loops_by_iteration(overlay, tmp_path):
    options = {**IN_EACH_PRECISION, **WITHOUT_VALIDATION}
    run_on_gpu(make_fault_tolerant(config(tmp_path, (overlay,), options, max_iters=3)))


@pytest.mark.parametrize('unit', ['Epoch', 'Iter'])
def test_loops_of_one_domain(unit, tmp_path):
    length = dict(max_epochs=1) if unit == 'Epoch' else dict(max_iters=3)
    cfg = config(tmp_path, ('fine_tune',), {**IN_EACH_PRECISION, **WITHOUT_VALIDATION}, **length)
    cfg.train_cfg = dict(length, type=f'Resumable{unit}TrainLoop')
    run_on_gpu(cfg)


@pytest.mark.parametrize('overlay', ['dann', 'shot', 'lwf'])
def test_a_resumed_run_in_half_precision_ends_as_the_whole_one(overlay, tmp_path):
    """What the checkpoint holds comes back on the GPU, whichever device hooks had it on."""
    options = {**WITHOUT_VALIDATION, 'optim_wrapper.type': 'AmpOptimWrapper'}
    options['load_from'] = checkpoint(tmp_path, 'source')
    hooks = []
    if overlay == 'dann':
        options.update(BOTH, val_dataloader=loader(shuffle=False))
        options['val_evaluator'] = dict(type='Accuracy', topk=(1,))
        hooks = [dict(type='RetentionHook'), dict(type='LabelShiftHook', reweight=True)]
    runs = []
    for resume in (False, True):
        cfg = config(tmp_path, (overlay,), options, max_epochs=2)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
        if resume:
            cfg.merge_from_dict(dict(resume=True, load_from=str(tmp_path / 'epoch_1.pth')))
        cfg.experiment_name += str(resume)
        runs.append(run_on_gpu(make_fault_tolerant(cfg)))
    expected, found = (values(runner.model.state_dict()) for runner in runs)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    scales = [runner.optim_wrapper.loss_scaler.state_dict() for runner in runs]
    assert scales[0] == scales[1]


@pytest.mark.parametrize(
    ('overlays', 'options'),
    [
        (('no_training', 'adabn'), {}),
        (('frozen_alignment',), target()),
        (('interpolation',), {**target(), 'model.domain_specific_bn': True}),
    ],
    ids=['no_training', 'frozen_alignment', 'interpolation'],
)
def test_loops_without_steps(overlays, options, tmp_path):
    if 'interpolation' in overlays:
        options = {**options, 'train_cfg.adapted': checkpoint(tmp_path, 'adapted')}
        options |= {'model.type': 'AdaptationClassifier', 'train_cfg.alphas': [0.5]}
    run_on_gpu(config(tmp_path, overlays, {**BOTH, **options}))


@pytest.mark.parametrize('overlay', ['tent', 'sar'])
def test_adaptation_in_a_test(overlay, tmp_path):
    options = {**WITHOUT_VALIDATION, 'test_cfg': dict(BOTH['val_cfg'], type='DomainTestLoop')}
    options['test_cfg']['fp16'] = True
    run_on_gpu(config(tmp_path, ('no_training', overlay), options), then=Runner.test)


@pytest.mark.parametrize(
    ('overlay', 'options'),
    [
        ('dann', dict(spectral_norm=True, gradient_penalty=1.0)),
        ('dann', dict(norm='BN', dropout=0.5, label_smoothing=0.1)),
        ('cdan', dict(max_channels=16, random_channels=8)),
    ],
    ids=['penalty', 'norm', 'randomized'],
)
def test_options_of_adversaries(overlay, options, tmp_path):
    options = {f'model.alignments.{overlay}.{name}': value for name, value in options.items()}
    options |= {**IN_EACH_PRECISION, **WITHOUT_VALIDATION, 'default_hooks.checkpoint': None}
    options['custom_hooks'] = [dict(type='AdversaryMonitorHook', interval=1)]
    run_on_gpu(config(tmp_path, (overlay,), options))


BACKBONES = [
    dict(type='PooledTimmBackbone', model_name='test_resnet'),
    dict(type='PooledTorchvisionBackbone', model_name='squeezenet1_1'),
    dict(type='DANNDigitsBackbone'),
]


@pytest.mark.parametrize('backbone', BACKBONES, ids=lambda backbone: backbone['type'])
def test_backbones(backbone, tmp_path):
    options = {**IN_EACH_PRECISION, **WITHOUT_VALIDATION, 'default_hooks.checkpoint': None}
    cfg = config(tmp_path, ('dann',), {**options, 'model.neck': None})
    cfg.model.backbone = backbone
    cfg.model.head = dict(type='LinearClsHead', num_classes=3)
    if backbone['type'] == 'DANNDigitsBackbone':
        cfg.train_dataloader.dataset.image_size = 28
        cfg.train_cfg.target_dataloader.dataset.image_size = 28
    run_on_gpu(cfg)


def test_several_sources_in_channels_last_with_statistics_by_domain(tmp_path):
    sources = [dict(type='ToyDataset', seed=seed, size=6) for seed in (2, 3)]
    options = {**IN_EACH_PRECISION, **WITHOUT_VALIDATION, 'default_hooks.checkpoint': None}
    options |= {'model.domain_specific_bn': True, 'model.channels_last': True}
    options['model.alignments.dann.num_sources'] = 2
    cfg = config(tmp_path, ('dann',), options)
    pipeline = [dict(type='DegradeQuality', corruptions=dict(noise=dict(severity=(1, 2))))]
    for source in sources:
        source['pipeline'] = [*pipeline, *cfg.train_dataloader.dataset.pipeline]
    target_data = dict(cfg.train_cfg.target_dataloader.dataset, pipeline=sources[0]['pipeline'])
    cfg.train_cfg.target_dataloader.dataset = dict(target_data, type='ToyDataset', _delete_=True)
    cfg.train_dataloader.dataset = dict(type='SeveralSources', datasets=sources)
    run_on_gpu(cfg)


#: By name, of features (N, D) and probabilities (N, K): what is computed by matrix products,
#: decompositions or differences, in which half precision would lose the result.
FUNCTIONS = {
    'penalty': lambda x, p: batch_spectral_penalty(x, 2 * x),
    'shrinkage': lambda x, p: batch_spectral_shrinkage(x),
    'rank': lambda x, p: effective_rank(x),
    'spread': lambda x, p: relative_spread(x),
    'gram': lambda x, p: linear_gram(x),
    'hsic': lambda x, p: unbiased_hsic(linear_gram(x), linear_gram(x)),
    'centroids': lambda x, p: centroid_pseudo_labels(x, p),
    'coral': lambda x, p: coral_loss(x, 2 * x),
    'frechet': lambda x, p: frechet_distance(x, 2 * x),
    'label_shift': lambda x, p: black_box_shift(p, p.argmax(1), p.flip(0)),
    'class_confusion': lambda x, p: class_confusion(x),
    'marginal_entropy': lambda x, p: marginal_entropy(x),
    'density_ratio': lambda x, p: density_ratio(x, 2 * x),
    **{name: lambda x, p, score=score: score(p) for name, score in SCORES.items()},
}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_is_as_exact_in_mixed_precision_as_without(name, dtype):
    torch.manual_seed(0)
    inputs = [rows.to(dtype) for rows in (torch.randn(6, 6), torch.randn(6, 6).softmax(1))]
    expected = FUNCTIONS[name](*(rows.float() for rows in inputs))
    with simulated_gpu(), torch.autocast('cuda', dtype):
        found = FUNCTIONS[name](*(rows.to('cuda') for rows in inputs)).cpu()
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


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
        (lambda module, x: x + module.left_behind, MixedDevices),
        (lambda module, x: torch.cat([x[0], module.left_behind]), MixedDevices),
        (lambda module, x: torch.zeros(()).add_(x.sum()), MixedDevices),
        (lambda module, x: x.sum().item(), HostSync),
        (lambda module, x: bool(x.sum() > 0), HostSync),
        (lambda module, x: x.tolist(), HostSync),
        (lambda module, x: x[x > 0], HostSync),
        (lambda module, x: (x > 0).nonzero(), HostSync),
        (lambda module, x: x.detach().cpu(), HostSync),
        (lambda module, x: module.left_behind.copy_(x[0].detach()), HostSync),
        (lambda module, x: torch.linalg.svdvals(x), HalfPrecision),
        (lambda module, x: torch.linalg.eigvalsh(x), HalfPrecision),
        (lambda module, x: torch.linalg.cholesky(x), HalfPrecision),
        (lambda module, x: torch.linalg.matrix_norm(x, 'nuc'), RuntimeError),
    ],
    ids=[
        *('left_behind', 'cat', 'in_place', 'item', 'bool', 'tolist', 'boolean_index'),
        *('nonzero', 'cpu', 'copy', 'svd', 'eigh', 'cholesky', 'nuclear_norm'),
    ],
)
def test_planted_fault_is_reported(fault, error):
    model = Planted(fault)
    with simulated_gpu() as placement, torch.autocast('cuda', torch.float16), pytest.raises(error):
        to_gpu(model)
        placement.in_step = True
        model(torch.rand(4, 4, device='cuda'))


class OnTheWayBack(torch.autograd.Function):
    """Return a gradient on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.ones(gradient.shape)


def test_planted_gradient_on_the_cpu_is_reported():
    with simulated_gpu(), pytest.raises(MixedDevices, match='expects a gradient on cuda'):
        weight = nn.Parameter(torch.ones(3, device='cuda'))
        OnTheWayBack.apply(weight * 2).sum().backward()


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


def test_planted_wait_in_a_run_is_reported(tmp_path, monkeypatch):
    head = MODELS.get('DANNHead')
    loss = head.forward

    def waiting(self, source, target):
        return loss(self, source, target) * source.features.sum().item()

    monkeypatch.setattr(head, 'forward', waiting)
    with pytest.raises(HostSync, match='_local_scalar_dense waits'):
        run_on_gpu(config(tmp_path, ('dann',)))


#: Registered components that no simulated run is built of -> the reason.
NOT_SIMULATED = {
    **dict.fromkeys(
        ('DigitsDataset', 'MNISTM', 'CorrectedLabels', 'RepeatChannels'),
        'touches no tensor of a GPU',
    ),
    'CPUAmpOptimWrapper': 'is for CPUs',
}


def test_each_registered_component_is_simulated(request):
    own = {item.name for item in request.session.items if item.fspath == request.node.fspath}
    every = {name for name in vars(request.module) if name.startswith('test_')}
    if not all(any(item.split('[')[0] == name for item in own) for name in every):
        pytest.skip('counts what all the runs of this file were built of')
    registered = set()
    for registry in vars(mmpretrain.registry).values():
        if isinstance(registry, Registry):
            registry.import_from_location()
            registered |= {
                name
                for name, component in registry.module_dict.items()
                if component.__module__.startswith('tl_plugin')
            }
    assert len(registered) > 60
    missing = sorted(registered - BUILT - NOT_SIMULATED.keys())
    assert not missing, f'simulate {missing}, or give a reason'
    assert not NOT_SIMULATED.keys() - registered, 'these are no longer registered'
    assert not NOT_SIMULATED.keys() & BUILT, 'these are simulated and need no reason'
