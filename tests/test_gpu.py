"""On a GPU: every strategy, precision and way to run, through the code that users' commands run.

    bash tools/run_tests.sh -m gpu
    TL_PLUGIN_GPU_DRY_RUN=1 bash tools/run_tests.sh -m gpu   # the same on a CPU

Without a GPU these tests are skipped, unless the variable asks for a dry run. That shows that the
tests run, not that a GPU computes what it should.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests.test_combinations import ALIGNMENTS
from tests.toy import target, toy_config
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.strategies import available_strategies, overlay_path

ROOT = Path(__file__).parents[1]
DRY_RUN = bool(os.environ.get('TL_PLUGIN_GPU_DRY_RUN'))
ON_GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (ON_GPU or DRY_RUN), reason='no GPU here; TL_PLUGIN_GPU_DRY_RUN=1 runs it on the CPU'
    ),
]
needs_gpu = pytest.mark.skipif(not ON_GPU, reason='a CPU has no such precision or graphs')

PRECISIONS = dict(
    float32=dict(type='OptimWrapper'),
    float16=dict(type='AmpOptimWrapper', loss_scale='dynamic'),
    bfloat16=dict(type='AmpOptimWrapper', dtype='bfloat16'),
)
FIELD = dict(target=dict(dataset=dict(shift=0.5, size=9, seed=1)))
EVALUATED = {
    'val_cfg': dict(type='DomainValLoop', dataloaders=FIELD),
    'test_cfg': dict(type='DomainTestLoop', dataloaders=FIELD),
}
NEEDS_TARGET = ('AdaptationTrainLoop', 'FrozenAlignmentLoop', 'InterpolationLoop')
#: Overlay -> what it needs beyond a source, a target and a checkpoint.
OTHERS = dict(
    interpolation={'train_cfg.alphas': [0.0, 0.5, 1.0], 'train_cfg.rule': 'mean'},
    quality_matched={'custom_hooks.0.max_images': 8},
    # Without a source, the training images are the target's.
    shot={'train_dataloader.dataset': dict(shift=0.5, size=12, seed=1)},
)


def build(folder, overlays, precision='float32', options=(), **units) -> Runner:
    """Build a run as ``tools/train.py`` does, at three steps of four images of each domain."""
    cfg = toy_config(
        folder, overlays, {**EVALUATED, **dict(options)}, **(units or {'max_epochs': 1})
    )
    cfg.optim_wrapper.update(PRECISIONS[precision])
    cfg.experiment_name = f'gpu_{abs(hash(str(folder)))}'
    return build_runner(prepare(cfg))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A source model, trained in an epoch."""
    folder = tmp_path_factory.mktemp('source')
    build(folder, ()).train()
    return str(folder / 'epoch_1.pth')


def options_of(overlay, checkpoint) -> dict:
    """What a run with an overlay needs."""
    # With a bottleneck the head has another width than the checkpoint's.
    start = {} if overlay == 'bottleneck' else {'load_from': checkpoint}
    options = {**start, **OTHERS.get(overlay, {})}
    kind = Config.fromfile(overlay_path(overlay)).get('train_cfg', {}).get('type')
    if kind in NEEDS_TARGET:
        options.update(target())
    if kind == 'InterpolationLoop':
        options['train_cfg.adapted'] = checkpoint
    if overlay == 'weighted_labels':
        table = Path(checkpoint).with_name('labels.csv')
        table.write_text('file,given,right\ntrain/0,red,0.25')
        options['custom_hooks.0.file'] = str(table)
    return options


def losses_of(runner, name='loss') -> torch.Tensor:
    return torch.tensor(runner.message_hub.get_scalar(f'train/{name}').data[0])


def check_trained(runner) -> None:
    """All weights are on the device and finite, as are the losses; both domains were evaluated."""
    for name, value in runner.model.state_dict().items():
        assert value.is_cuda == ON_GPU, f'{name} is on {value.device}'
        assert not value.is_floating_point() or value.isfinite().all(), name
    logged = runner.message_hub.log_scalars
    if runner.iter:
        assert runner.iter == 3 and losses_of(runner).isfinite().all()
    assert 'val/target/accuracy/top1' in logged and 'val/source/accuracy/top1' in logged


@pytest.mark.parametrize(
    'precision',
    ['float32', pytest.param('float16', marks=needs_gpu), 'bfloat16'],
)
@pytest.mark.parametrize('overlay', available_strategies())
def test_overlay(overlay, precision, checkpoint, tmp_path):
    overlays = (
        ('dann', overlay) if overlay in ('dann_schedule', 'label_shift_guard') else (overlay,)
    )
    options = options_of(overlays[0], checkpoint)
    runner = build(tmp_path, overlays, precision, options)
    runner.train()
    check_trained(runner)


#: What needs a hook or a second view of each image is tried with its overlay alone.
COMPARABLE = sorted(ALIGNMENTS.keys() - {'none', 'centroid', 'pseudo_label'})


@pytest.mark.parametrize('name', COMPARABLE)
def test_an_alignment_is_the_same_number_as_on_a_cpu(name, tmp_path, checkpoint):
    """Loss and gradients of one step, from the same weights and images."""
    options = {**target(), 'load_from': checkpoint}
    options['model.alignments'] = {'_delete_': True, name: ALIGNMENTS[name]}
    runner = build(tmp_path, ('mcc',), 'float32', options)
    runner.load_or_resume()
    on_cpu = copy.deepcopy(runner.model).cpu()
    batch = next(iter(runner.build_train_loop(runner._train_loop).dataloader))
    found = []
    for each in (runner.model, on_cpu):
        each.train()
        for module in each.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # a GPU draws other numbers
        each.set_progress(0.5)
        loss = each.parse_losses(each(**each.data_preprocessor(batch, True), mode='loss'))[0]
        loss.backward()
        gradients = [value.grad for value in each.parameters() if value.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        found.append((loss.detach().cpu(), norm.cpu()))
    torch.testing.assert_close(*found, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize('overlay', ['dann', 'gradual_unfreeze', 'mean_teacher'])
def test_channels_last(overlay, checkpoint, tmp_path):
    options = {**options_of(overlay, checkpoint), 'model.type': 'AdaptationClassifier'}
    runner = build(tmp_path, (overlay,), 'float32', {**options, 'model.channels_last': True})
    runner.train()
    check_trained(runner)


@pytest.mark.parametrize('mode', ['default', pytest.param('reduce-overhead', marks=needs_gpu)])
@pytest.mark.parametrize('overlay', ['source_only', 'dann', 'gradual_unfreeze'])
def test_compiled(overlay, mode, checkpoint, tmp_path):
    """``reduce-overhead`` records CUDA graphs: the losses must be those of the plain run."""
    compiled = dict(mode=mode) if ON_GPU else dict(backend='eager')
    found = []
    for folder, options in (('plain', {}), ('compiled', {'compile': compiled})):
        options = {**options_of(overlay, checkpoint), **options}
        runner = build(tmp_path / folder, (overlay,), 'float32', options)
        runner.train()
        check_trained(runner)
        found.append(losses_of(runner))
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-3)


def test_a_run_resumes_to_the_same_weights(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    options = {**options_of('dann', checkpoint), 'randomness': dict(seed=0, deterministic=True)}
    units = dict(max_epochs=2)
    whole = build(tmp_path / 'whole', ('dann',), 'float32', options, **units)
    whole.train()
    options.update(load_from=str(tmp_path / 'whole' / 'epoch_1.pth'), resume=True)
    resumed = build(tmp_path / 'resumed', ('dann',), 'float32', options, **units)
    resumed.train()
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_cached_features_train_the_head_that_uncached_ones_do(checkpoint, tmp_path):
    heads = []
    for overlay in ('feature_extraction', 'feature_extraction_cached'):
        options = {'load_from': checkpoint, 'randomness': dict(seed=0)}
        runner = build(tmp_path / overlay, (overlay,), 'float32', options)
        runner.train()
        heads.append([value.detach() for value in runner.model.head.parameters()])
    torch.testing.assert_close(*heads, rtol=1e-3, atol=1e-4)


def test_workers_and_pinned_memory(checkpoint, tmp_path):
    options = options_of('dann', checkpoint)
    options['train_dataloader'] = dict(num_workers=2, pin_memory=True, persistent_workers=True)
    runner = build(tmp_path, ('dann',), 'float32', options)
    assert runner.cfg.train_dataloader.pin_memory == ON_GPU
    runner.train()
    check_trained(runner)


SHARDED = dict(
    runner_type='FlexibleRunner',
    strategy=dict(
        type='FSDPStrategy',
        state_dict_cfg='full',
        model_wrapper=dict(
            type='MMFullyShardedDataParallel',
            use_orig_params=True,
            auto_wrap_policy=dict(
                type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
                min_num_params=5_000,
            ),
        ),
    ),
)


@pytest.mark.parametrize('wrapper', ['ddp', 'fsdp'])
def test_gradual_unfreezing_in_a_process_group(wrapper, checkpoint, tmp_path):
    """NCCL on a GPU, gloo on a CPU, one process, started by torchrun."""
    options = dict(EVALUATED, load_from=checkpoint) if wrapper == 'ddp' else dict(SHARDED)
    cfg = toy_config(tmp_path, ('gradual_unfreeze',), options, max_epochs=2)
    if wrapper == 'fsdp':
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_imports.imports.append('tests.toy')
    cfg.dump(tmp_path / 'config.py')
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1'),
        *('tools/train.py', str(tmp_path / 'config.py'), '--launcher', 'pytorch'),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['state_dict']
    assert any(name.startswith('backbone.') for name in saved)
