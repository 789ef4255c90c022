"""Runs that would compare a domain with itself end before their first iteration."""

import pytest
from mmengine.runner import Runner

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.folders import WRAPPERS
from tests.toy import target, toy_config, train

#: The training images, and those of validation and test, under another name.
SAME = dict(dataset=dict(labels='none'))
OTHER = dict(dataset=dict(shift=0.5, seed=3))


def _domains(kind, found):
    return {f'{kind}_cfg': dict(type=f'Domain{kind.title()}Loop', dataloaders=dict(target=found))}


RUNS = dict(
    adaptation=(['dann'], target(shift=0.0, size=12, seed=0), 'the source and the target are'),
    validation=([], _domains('val', SAME), 'source and target are .*: 12 of 12 images of target'),
    quality=(['quality_matched'], {'custom_hooks.0.target_dataloader': SAME}, 'the source and the'),
    quality_domain=(
        ['quality_matched'],
        {
            'train_dataloader.dataset.seed': 3,
            'train_dataloader.dataset.shift': 0.5,
            **_domains('val', OTHER),
        },
        'the source and the target are the same images',
    ),
)


@pytest.mark.parametrize('name', RUNS)
def test_training(tmp_path, name):
    strategies, options, message = RUNS[name]
    cfg = toy_config(tmp_path, strategies, options, max_epochs=1)
    with pytest.raises(ValueError, match=message):
        train(cfg)


@pytest.mark.parametrize('kind', ['repeat', 'several'])
def test_a_wrapped_source_adapts_to_the_data_set_inside(tmp_path, kind):
    cfg = toy_config(tmp_path, ['dann'], max_epochs=1)
    cfg.train_dataloader.dataset = WRAPPERS[kind](cfg.train_dataloader.dataset.to_dict())
    cfg.merge_from_dict({'train_cfg.target_dataloader.dataset.shift': 0.5})
    pair = Runner.from_cfg(cfg).build_train_loop(cfg.train_cfg).dataloader
    dataset = pair.target.loader.dataset
    assert type(dataset).__name__ == 'ToyDataset' and len(dataset) == 12
    cfg.train_cfg.target_dataloader.dataset.shift = 0.0
    with pytest.raises(ValueError, match='12 of 12 images of the target, ToyDataset'):
        Runner.from_cfg(cfg).build_train_loop(cfg.train_cfg)


def test_adabn(tmp_path):
    options = {'custom_hooks.0.target_dataloader': SAME, **_domains('test', OTHER)}
    runner = Runner.from_cfg(toy_config(tmp_path, ['adabn'], options))
    with pytest.raises(ValueError, match='source and target are the same images'):
        runner.test_loop.run()


def test_without_source_images(tmp_path):
    cfg = toy_config(tmp_path, options={'load_from': 'unread.pth', **_domains('val', OTHER)})
    cfg.train_cfg = dict(type='SourceFreeTrainLoop', max_epochs=1)
    cfg.custom_hooks = [dict(type='DataCheckHook')]
    with pytest.raises(ValueError, match="calls 12 of 12 images of it the domain 'source'"):
        train(cfg)


def test_without_source_images_options_mean_the_data_set_inside(tmp_path):
    cfg = toy_config(tmp_path, options={'load_from': 'unread.pth'})
    cfg.train_cfg = dict(type='SourceFreeTrainLoop', max_epochs=1)
    cfg.train_dataloader.dataset = WRAPPERS['repeat'](cfg.train_dataloader.dataset.to_dict())
    cfg.merge_from_dict({'train_dataloader.dataset.shift': 0.5})
    dataset = Runner.from_cfg(cfg).build_train_loop(cfg.train_cfg).dataloader.dataset
    assert (type(dataset).__name__, dataset.shift, len(dataset)) == ('ToyDataset', 0.5, 12)


def _on_rank(work_dir):
    options = {
        'custom_hooks.0.target_dataloader': SAME,
        'launcher': 'pytorch',
        'model_wrapper_cfg': CPU_MODEL_WRAPPER,
        'env_cfg.dist_cfg': dict(backend='gloo'),
    }
    try:
        train(toy_config(work_dir, ['quality_matched'], options, max_epochs=1))
    except ValueError as error:
        return str(error)


def test_what_the_first_process_finds_ends_all(tmp_path):
    one, other = run_distributed(_on_rank, str(tmp_path), timeout=100)
    assert one == other and 'the source and the target are the same images' in one
