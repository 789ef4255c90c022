import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import loader, stock_config, toy_config, train
from tl_plugin.engine.batch_statistics import norm_layers
from tl_plugin.engine.hooks import adabn_hook
from tl_plugin.reliability.checkpoints import read_whole

TARGET = dict(dataset=dict(labels='true', shift=0.6, size=12, seed=7))
DOMAINS = dict(dataloaders=dict(target=TARGET))
OPTIONS = {
    'test_cfg': dict(type='DomainTestLoop', **DOMAINS),
    'val_cfg': dict(type='DomainValLoop', **DOMAINS),
}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A source model that knows nothing of the target."""
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, options={'optim_wrapper.optimizer.lr': 0.05}, max_epochs=8))
    return str(folder / 'epoch_8.pth')


def _tester(work_dir, checkpoint, strategies=('adabn',), **options):
    cfg = toy_config(work_dir, strategies, {**OPTIONS, **options, 'load_from': checkpoint})
    return Runner.from_cfg(cfg)


def test_a_source_checkpoint_adapts_without_training(tmp_path, checkpoint):
    plain = _tester(tmp_path / 'plain', checkpoint, ()).test()
    runner = _tester(tmp_path / 'adapted', checkpoint)
    found = runner.test()
    for name, value in plain.items():
        assert found[f'before_adabn/{name}'] == value
    assert found['target/accuracy/top1'] > plain['target/accuracy/top1']
    assert 'test/before_adabn/source/accuracy/top1' in runner.message_hub.log_scalars

    # The first norm layer's, from the images alone.
    images = torch.stack([item['inputs'] for item in runner.test_loop.domains['target'][0].dataset])
    inputs = runner.model.data_preprocessor(dict(inputs=images))['inputs']
    seen = runner.model.backbone.conv1(inputs).detach()
    name, layer = next(iter(norm_layers(runner.model).items()))
    assert name == 'backbone.bn1'
    torch.testing.assert_close(layer.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('unit', [dict(max_epochs=1), dict(max_iters=2)])
def test_in_training_checkpoints_hold_the_targets_statistics(tmp_path, unit):
    runner = train(toy_config(tmp_path, ['adabn'], OPTIONS, **unit))
    state = read_whole(sorted(tmp_path.glob('*_*.pth'))[-1])['state_dict']
    found = norm_layers(runner.model)['backbone.bn1'].running_mean
    assert torch.equal(state['backbone.bn1.running_mean'], found)
    estimate = _first_mean(runner)
    torch.testing.assert_close(found, estimate, rtol=1e-4, atol=1e-5)
    assert 'val/before_adabn/target/accuracy/top1' in runner.message_hub.log_scalars


def _first_mean(runner):
    batches = runner.val_loop.domains['target'][0]
    images = torch.cat([torch.stack(list(batch['inputs'])) for batch in batches])
    inputs = runner.model.data_preprocessor(dict(inputs=images))['inputs']
    return runner.model.backbone.conv1(inputs).detach().mean((0, 2, 3))


def test_a_run_without_training_adapts_once_and_still_knows_what_was_before(
    tmp_path, checkpoint, monkeypatch
):
    plain = _tester(tmp_path / 'plain', checkpoint, ()).test()
    calls = []
    estimate = adabn_hook.estimate_batch_statistics
    monkeypatch.setattr(
        adabn_hook, 'estimate_batch_statistics', lambda *args: calls.append(1) or estimate(*args)
    )
    runner = _tester(tmp_path / 'run', checkpoint, ('adabn', 'no_training'))
    runner.train()
    trained = {name: value.clone() for name, value in runner.model.state_dict().items()}
    found = runner.test()
    assert len(calls) == 1 and found['target/accuracy/top1'] > plain['target/accuracy/top1']
    assert {name: found[f'before_adabn/{name}'] for name in plain} == plain
    assert all(torch.equal(trained[name], v) for name, v in runner.model.state_dict().items())
    # Other weights get statistics of their own.
    runner.model.backbone.conv1.weight.data.mul_(2)
    runner.test()
    torch.testing.assert_close(
        norm_layers(runner.model)['backbone.bn1'].running_mean,
        2 * trained['backbone.bn1.running_mean'],
    )


def test_a_loader_of_its_own_and_part_of_it(tmp_path, checkpoint):
    hook = dict(type='AdaBNHook', target_dataloader=TARGET, max_batches=1, report_before=False)
    cfg = toy_config(tmp_path, options={'load_from': checkpoint})
    cfg.custom_hooks = [hook]
    runner = Runner.from_cfg(cfg)
    assert not any('before' in name for name in runner.test())
    dataset = DATASETS.build({**loader()['dataset'], **TARGET['dataset']})
    images = torch.stack([dataset[index]['inputs'] for index in range(4)])
    seen = runner.model.backbone.conv1(
        runner.model.data_preprocessor(dict(inputs=images))['inputs']
    )
    mean = norm_layers(runner.model)['backbone.bn1'].running_mean
    torch.testing.assert_close(mean, seen.detach().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def _on_rank(work_dir, checkpoint):
    runner = _tester(
        work_dir,
        checkpoint,
        launcher='pytorch',
        model_wrapper_cfg=CPU_MODEL_WRAPPER,
        **{'env_cfg.dist_cfg': dict(backend='gloo')},
    )
    found = runner.test()
    return found, norm_layers(runner.model.module)['backbone.bn1'].running_var


def test_two_processes_agree_with_one(tmp_path, checkpoint):
    (found, variance), (other, same) = run_distributed(_on_rank, str(tmp_path), checkpoint)
    assert found == other and torch.equal(variance, same)
    runner = _tester(tmp_path / 'one', checkpoint)
    runner.test()
    expected = norm_layers(runner.model)['backbone.bn1'].running_var
    torch.testing.assert_close(variance, expected, rtol=1e-5, atol=1e-6)


def test_a_stock_config_adapts_at_the_end(tmp_path):
    hook = {'custom_hooks': [dict(type='AdaBNHook', target_dataloader=loader(2, size=4, seed=3))]}
    runner = train(
        stock_config('regnet/regnetx-400mf_8xb128_in1k.py', tmp_path, options=hook, image_size=64)
    )
    assert all(layer.running_mean.abs().sum() > 0 for layer in norm_layers(runner.model).values())


def test_what_it_refuses(tmp_path):
    with pytest.raises(ValueError, match='needs target images: set its target_dataloader'):
        train(toy_config(tmp_path, ['adabn']))
    cfg = toy_config(tmp_path, ['adabn'], OPTIONS)
    cfg.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(ValueError, match='an EMAHook evaluates its own copy'):
        train(cfg)
    vit = toy_config(tmp_path, ['adabn'], OPTIONS)
    vit.model.backbone = dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        img_size=32,
        patch_size=16,
    )
    vit.model.neck = None
    vit.model.head = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)
    with pytest.raises(ValueError, match='no batch norm with running statistics'):
        train(vit)
