"""The flags mean what they mean in mmpretrain's own tools, and wrong use is named."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from tests.distributed import run_distributed
from tests.folders import WRAPPERS
from tests.toy import STOCK, toy_config, train
from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.launch import cpu as cpu_launch
from tl_plugin.launch import runs as launch
from tl_plugin.launch.configs import config_file, load_config
from tl_plugin.launch.runs import build_runner, prepare, prepare_test

CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def _reference(tool: str, arguments: list[str], monkeypatch) -> Config:
    """The config that mmpretrain's own tool makes of its command line."""
    path = STOCK.parent / 'tools' / tool
    module = runpy.run_path(str(path))
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    args = module['parse_args']()
    return module['merge_args'](Config.fromfile(args.config), args)


def _same(ours: Config, theirs: Config) -> None:
    ours, theirs = ours.to_dict(), theirs.to_dict()
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        # This machine has no GPU: pinned memory would only warn.
        for cfg in (ours, theirs):
            if cfg.get(key):
                cfg[key].pop('pin_memory', None)
    ours.pop('work_dir'), theirs.pop('work_dir')
    assert ours == theirs


TRAIN_FLAGS = {
    '': {},
    '--no-validate': {'validate': False},
    '--no-persistent-workers': {'persistent_workers': False},
    '--no-pin-memory': {'pin_memory': False},
    '--auto-scale-lr': {'auto_scale_lr': True},
    '--launcher slurm': {'launcher': 'slurm'},
    '--work-dir there': {'work_dir': 'there'},
}


@pytest.mark.parametrize('flags', TRAIN_FLAGS)
def test_train_flags_do_what_they_do_in_mmpretrain(flags, monkeypatch):
    monkeypatch.setattr(launch, 'runs_on_cpus', lambda cfg: False)
    path = str(config_file(CIFAR))
    theirs = _reference('train.py', [path, *flags.split()], monkeypatch)
    ours = prepare(load_config(CIFAR), **TRAIN_FLAGS[flags])
    assert Path(ours.work_dir) == Path(theirs.work_dir)
    _same(ours, theirs)


TEST_FLAGS = {
    '': {},
    '--tta': {'tta': True},
    '--amp': {'amp': True},
    '--show-dir there --interval 3': {'show_dir': 'there', 'interval': 3},
    '--show --wait-time 1': {'show': True, 'wait_time': 1.0},
}


@pytest.mark.parametrize('flags', TEST_FLAGS)
def test_test_flags_do_what_they_do_in_mmpretrain(flags, monkeypatch):
    path = str(config_file(CIFAR))
    theirs = _reference('test.py', [path, 'weights.pth', *flags.split()], monkeypatch)
    _same(prepare_test(load_config(CIFAR), 'weights.pth', **TEST_FLAGS[flags]), theirs)


@pytest.mark.parametrize('kind', WRAPPERS)
def test_augmented_views_go_through_what_is_inside_of_a_wrapper(kind, tmp_path):
    cfg = toy_config(tmp_path)
    wanted = prepare_test(toy_config(tmp_path), 'weights.pth', tta=True).test_dataloader.dataset
    cfg.test_dataloader.dataset = WRAPPERS[kind](cfg.test_dataloader.dataset.to_dict())
    (inner,) = inner_configs(prepare_test(cfg, 'weights.pth', tta=True).test_dataloader.dataset)
    assert inner.pipeline == wanted.pipeline and inner.pipeline[-1].type == 'TestTimeAug'


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_every_flag_of_mmpretrain_is_there(tool, capsys, monkeypatch):
    def options(path):
        monkeypatch.setattr(sys, 'argv', [tool, '--help'])
        monkeypatch.syspath_prepend(str(path.parent))
        with pytest.raises(SystemExit):
            runpy.run_path(str(path))['parse_args']()
        return {word.strip('[],') for word in capsys.readouterr().out.split() if word[:2] == '--'}

    theirs = options(STOCK.parent / 'tools' / tool) - {'--local_rank', '--local-rank'}
    ours = options(Path(launch.__file__).parents[2] / 'tools' / tool)
    assert len(theirs) > 8 and ours >= theirs | {'--strategy'}


def test_amp_on_a_cpu_takes_the_wrapper_that_works_there(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    written = dict(type='AmpOptimWrapper', loss_scale=128.0)
    for options, amp in (({}, True), ({'optim_wrapper': written}, False)):
        cfg = prepare(load_config(CIFAR, (), options), amp=amp)
        assert cfg.optim_wrapper.type == 'CPUAmpOptimWrapper'
        assert cfg.optim_wrapper.optimizer.type == 'SGD'


def test_amp_with_a_gpu_is_what_it_is_in_mmpretrain(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    theirs = _reference('train.py', [str(config_file(CIFAR)), '--amp'], monkeypatch)
    ours = prepare(load_config(CIFAR), amp=True)
    assert ours.optim_wrapper == theirs.optim_wrapper
    assert ours.train_dataloader == theirs.train_dataloader
    with pytest.raises(ValueError, match='DeepSpeedOptimWrapper'):
        prepare(load_config(CIFAR, (), {'optim_wrapper.type': 'DeepSpeedOptimWrapper'}), amp=True)


def test_auto_scale_lr_without_a_base_is_refused():
    with pytest.raises(ValueError, match='base_batch_size'):
        prepare(load_config(CIFAR, (), {'auto_scale_lr': None}), auto_scale_lr=True)


def test_show_without_a_hook_is_refused():
    with pytest.raises(ValueError, match='VisualizationHook'):
        prepare_test(load_config(CIFAR, (), {'default_hooks': None}), 'weights.pth', show=True)


def test_resume_takes_the_latest_checkpoint_or_starts_as_the_config_says(tmp_path):
    options = {'load_from': 'pretrained.pth'}
    fresh = prepare(toy_config(tmp_path, options=options), resume='auto')
    assert not fresh.resume and fresh.load_from == 'pretrained.pth'
    train(toy_config(tmp_path, max_epochs=1))
    resumed = prepare(toy_config(tmp_path, options=options), resume='auto')
    assert resumed.resume and resumed.load_from == str(tmp_path / 'epoch_1.pth')
    chosen = prepare(toy_config(tmp_path), resume=str(tmp_path / 'epoch_1.pth'))
    assert chosen.resume and chosen.load_from == str(tmp_path / 'epoch_1.pth')
    with pytest.raises(FileNotFoundError, match='epoch_9'):
        prepare(toy_config(tmp_path), resume=str(tmp_path / 'epoch_9.pth'))


def test_the_written_config_is_that_of_the_whole_run(tmp_path):
    """Of a resumed run too, so that other tools neither resume nor begin elsewhere."""
    first = tmp_path / 'first'
    train(toy_config(first, max_epochs=1))
    cfg = toy_config(tmp_path, max_epochs=1, options={'load_from': str(first / 'epoch_1.pth')})
    build_runner(prepare(Config(cfg.to_dict()))).train()
    cfg.train_cfg.max_epochs = 2
    cfg.dump(tmp_path / 'of the user.py')
    runner = build_runner(prepare(load_config(tmp_path / 'of the user.py'), resume='auto'))
    written = Config.fromfile(tmp_path / 'of the user.py')
    assert not written.resume and written.load_from == str(first / 'epoch_1.pth')
    assert 'started_from' not in written
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 6)
    log = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(log) == 6  # the first epoch's history went on


def test_a_test_does_not_resume(tmp_path):
    cfg = prepare_test(toy_config(tmp_path, options={'resume': True}), 'weights.pth')
    assert not cfg.resume and cfg.load_from == 'weights.pth'


def test_no_workers_are_never_persistent(tmp_path):
    options = {'train_dataloader.persistent_workers': True}
    cfg = prepare(toy_config(tmp_path, max_epochs=1, options=options))
    assert cfg.train_dataloader.num_workers == 0
    build_runner(cfg).train()


def test_predictions_are_added_to_any_evaluator():
    dumped = dict(type='DumpResults', out_file_path='all.pkl')
    metric = dict(type='Accuracy', topk=(1,))
    for evaluator in (
        metric,
        [metric],
        dict(type='Evaluator', metrics=metric),
        dict(metrics=[metric]),
        dict(type=Evaluator, metrics=(metric,)),
    ):
        cfg = load_config(CIFAR)
        cfg.test_evaluator = evaluator
        prepare_test(cfg, 'weights.pth', out_predictions='all.pkl')
        found = cfg.test_evaluator
        assert [metric, dumped] == (found if isinstance(found, list) else found['metrics'])
        assert {type(one).__name__ for one in _built(found)} == {'Accuracy', 'DumpResults'}


def _built(evaluator):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Runner.build_evaluator(None, evaluator).metrics


def test_predictions_of_a_domain_with_evaluators_of_its_own(tmp_path):
    cfg = toy_config(tmp_path, max_epochs=1)
    cfg.test_cfg = dict(
        type='DomainTestLoop',
        dataloaders=dict(target=dict(dataset=dict(shift=0.5, labels='none'))),
        evaluators=dict(target=dict(type='TargetValidator')),
    )
    prepare_test(cfg, 'weights.pth', out_predictions=tmp_path / 'all.pkl').load_from = None
    domains = build_runner(cfg).test_loop.domains
    dumps = {name: evaluator.metrics[-1].out_file_path for name, (_, evaluator) in domains.items()}
    assert dumps == {name: str(tmp_path / f'all.{name}.pkl') for name in ('source', 'target')}


def test_plain_adds_nothing(tmp_path):
    cfg = prepare(toy_config(tmp_path, max_epochs=1))
    runner = build_runner(cfg, plain=True)
    assert not any(type(hook).__module__.startswith('tl_plugin') for hook in runner.hooks)
    assert any(type(hook) is CheckpointHook for hook in runner.hooks)
    assert 'tl_plugin' not in next(tmp_path.glob('*.py')).read_text()


@pytest.mark.parametrize(
    ('launcher', 'said'),
    [('pytorch', r'RANK.*dist_train\.sh'), ('slurm', r'SLURM_PROCID.*slurm_train\.sh')],
)
def test_a_process_that_the_launcher_did_not_start_is_refused(launcher, said):
    cfg = prepare(load_config(CIFAR), launcher=launcher)
    with pytest.raises(ValueError, match=said):
        build_runner(cfg)


def test_a_wrapper_of_ones_own_loses_its_device_only(tmp_path):
    wrapper = dict(type='MMDistributedDataParallel', find_unused_parameters=True)
    cfg = prepare(toy_config(tmp_path, options={'model_wrapper_cfg': wrapper}), launcher='pytorch')
    assert cfg.model_wrapper_cfg == dict(wrapper, device_ids=None)
    options = {'find_unused_parameters': True}
    cfg = prepare(toy_config(tmp_path, options=options), launcher='pytorch')
    assert cfg.model_wrapper_cfg.find_unused_parameters


def _train_on_two(work_dir):
    cfg = prepare(toy_config(work_dir, max_epochs=1), launcher='pytorch')
    runner = build_runner(cfg)
    runner.train()
    weights = [float(value.double().abs().sum()) for value in runner.model.parameters()]
    return runner.distributed, runner.world_size, runner.seed, weights, type(runner.model).__name__


def test_two_processes_on_cpus_train_as_one(tmp_path):
    first, second = run_distributed(_train_on_two, str(tmp_path))
    assert first == second
    assert first[:3] == (True, 2, 0) and first[4] == 'MMDistributedDataParallel'
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_one_process_is_left_alone(tmp_path):
    cfg = prepare(toy_config(tmp_path))
    assert 'model_wrapper_cfg' not in cfg and not cpu_launch.runs_on_cpus(cfg)
    cpu_launch.leave_cpu_group()


def test_a_target_that_the_loop_does_not_read_is_refused_with_the_place_where_it_belongs(tmp_path):
    options = {'train_cfg.target_dataloader.dataset.data_root': 'data/target'}
    cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py', ['adabn'], options)
    with pytest.raises(
        ValueError, match=r'write custom_hooks\.AdaBNHook\.target_dataloader instead'
    ):
        prepare(cfg, work_dir=tmp_path)
    cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py', ['adabn', 'dann'], options)
    prepare(cfg, work_dir=tmp_path)


def test_configs_that_cannot_train_are_refused_with_what_is_expected(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('x = (')
    with pytest.raises(ValueError, match=r'mine\.py is no config in Python'):
        load_config(path)
    path.write_text('data = 1')
    with pytest.raises(ValueError, match=r'mine\.py has no model: expected a config of mmpretrain'):
        load_config(path)
    for key in ('max_epochs', 'val_interval'):
        with pytest.raises(ValueError, match=f'{key} is 0, expected a number of at least 1'):
            prepare(toy_config(tmp_path, options={f'train_cfg.{key}': 0}))
    wrong = toy_config(tmp_path, options={'optim_wrapper.optimizer.type': 'SDG'})
    with pytest.raises(ValueError, match=r"type is 'SDG', and no optimizer .* Did you mean 'SGD'"):
        prepare(wrong)
    wrong.optim_wrapper.optimizer.type = 'torch.optim.SGD'
    prepare(wrong)
