from pathlib import Path

import pytest
from mmengine.config import Config

from tests.toy import STOCK, toy_config, train
from tl_plugin.launch.configs import config_file, default_work_dir, load_config, merge_options
from tl_plugin.strategies import apply_strategies

CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def test_a_config_of_a_package_is_found_without_asking_a_network():
    assert config_file(CIFAR) == STOCK / 'resnet' / 'resnet18_8xb16_cifar10.py'
    assert config_file('tl_plugin::strategies/dann.py').is_file()


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        ('mmpretrain::resnet/resnet18_8xb16_cifar.py', FileNotFoundError, 'resnet18_8xb16_cifar10'),
        ('mmpretrian::resnet/resnet18.py', ValueError, 'no package'),
        ('pytest::resnet/resnet18.py', ValueError, 'without configs'),
        ('resnet/resnet18_8xb16_cifar10.py', FileNotFoundError, 'mmpretrain::resnet'),
    ],
)
def test_a_config_that_is_not_there_is_named(config, error, message):
    with pytest.raises(error, match=message):
        config_file(config)


def test_file_then_strategies_then_options(tmp_path):
    overlay = tmp_path / 'mine.py'
    overlay.write_text('train_cfg = dict(max_epochs=7, val_interval=7)\n')
    stock = load_config(CIFAR)
    cfg = load_config(CIFAR, [str(overlay)], {'train_cfg.val_interval': 3})
    assert stock.train_cfg.max_epochs == 200
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (7, 3)


def test_each_way_to_run_a_config_has_its_own_folder():
    name = default_work_dir(CIFAR, ['fine_tune', 'path/to/mine.py'])
    assert Path(name) == Path('work_dirs/resnet18_8xb16_cifar10_fine_tune_mine')


def test_options_of_a_hook_by_its_class(tmp_path):
    overlays = ['l2_sp', 'adabn', 'feature_extraction']  # which put it into the middle
    cfg = load_config(CIFAR, overlays, {'custom_hooks.AdaBNHook.max_batches': 3})
    assert [hook.get('max_batches') for hook in cfg.custom_hooks] == [None, 3, None, None]
    cfg = load_config(CIFAR, overlays, {'custom_hooks': {'AdaBNHook': {'report_before': False}}})
    assert cfg.custom_hooks[1].report_before is False
    assert load_config(CIFAR, overlays, {'custom_hooks.1.max_batches': 4}).custom_hooks[1] == dict(
        type='AdaBNHook', max_batches=4
    )
    with pytest.raises(ValueError, match=r"no such hook\. Did you mean 'AdaBNHook'"):
        load_config(CIFAR, overlays, {'custom_hooks.AdaBnHook.max_batches': 3})
    with pytest.raises(ValueError, match='Its custom_hooks are empty'):
        load_config(CIFAR, [], {'custom_hooks.AdaBNHook.max_batches': 3})
    twice = [dict(type='FreezeHook', layers='0'), dict(type='mmpretrain.FreezeHook', layers='1')]
    with pytest.raises(ValueError, match=r'write custom_hooks\.0 or custom_hooks\.1'):
        merge_options(Config(dict(custom_hooks=twice)), {'custom_hooks.FreezeHook.norm': 'eval'})


def test_the_data_of_an_overlay_beside_other_hooks(tmp_path):
    # The way that the overlays of AdaBN and of quality matching document.
    cfg = toy_config(tmp_path, ['adabn'], {'custom_hooks': [dict(type='SyncBuffersHook')]})
    cfg = apply_strategies(cfg, ['adabn', 'quality_matched'])
    for name in ('AdaBNHook', 'QualityMatchHook'):
        data = dict(shift=0.5, labels='none')
        merge_options(cfg, {f'custom_hooks.{name}.target_dataloader.dataset': data})
    cfg.custom_hooks[2].max_images = 8
    runner = train(cfg)
    assert 'val/before_adabn/accuracy/top1' in runner.message_hub.log_scalars
    assert (tmp_path / 'quality_matched.json').is_file()
