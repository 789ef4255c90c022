"""A trained checkpoint needs no file of the weights that training began with."""

import pytest
import timm
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from tests.toy import toy_config, train
from tl_plugin.analysis.features import build_model
from tl_plugin.reliability.checkpoints import read_whole
from tl_plugin.reliability.initial_weights import announce_checkpoint


def config(work_dir, path, options=None, max_epochs=1, **backbone):
    model = dict(
        _delete_=True,
        type='PooledTimmBackbone',
        model_name='test_resnet',
        checkpoint_path=str(path),
        **backbone,
    )
    return toy_config(
        work_dir,
        max_epochs=max_epochs,
        options={
            'model.backbone': model,
            'model.neck': None,
            'model.head.in_channels': 96,
            'optim_wrapper.optimizer.lr': 0.0,
            **(options or {}),
        },
    )


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """A file of weights."""
    folder = tmp_path_factory.mktemp('start')
    torch.manual_seed(5)
    torch.save(timm.create_model('test_resnet').state_dict(), folder / 'first.pth')
    return folder / 'first.pth'


@pytest.fixture(scope='module')
def trained(start, tmp_path_factory):
    """The checkpoint of a run that began with it, averages included."""
    folder = tmp_path_factory.mktemp('trained')
    hook = [dict(type='EMAHook', momentum=0.5)]
    runner = train(config(folder, start, {'custom_hooks': hook}))
    source = torch.load(start)
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    for model in (runner.model, average):
        for name, value in model.backbone.timm_model.named_parameters():
            torch.testing.assert_close(value, source[name])
    return folder / 'epoch_1.pth'


GONE = 'nowhere/gone.pth'


def test_test_and_inference_need_no_file(trained, tmp_path):
    runner = Runner.from_cfg(config(tmp_path, GONE, {'load_from': str(trained)}))
    runner.test()
    saved = read_whole(trained)['state_dict']
    model = get_model(config(tmp_path, GONE), pretrained=str(trained))
    features = build_model(config(tmp_path, GONE, {'load_from': str(trained)}))
    for found in (runner.model, model, features):
        state = found.state_dict()
        assert all(torch.equal(state[name], value) for name, value in saved.items())


@pytest.mark.parametrize('found_by_itself', [False, True])
def test_a_resumed_run_needs_no_file(found_by_itself, trained, tmp_path):
    options = {'load_from': None if found_by_itself else str(trained), 'resume': True}
    if found_by_itself:
        (tmp_path / 'epoch_1.pth').write_bytes(trained.read_bytes())
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert train(config(tmp_path, GONE, options, max_epochs=2)).epoch == 2


def test_load_from_of_the_whole_network_needs_no_file(trained, tmp_path):
    train(config(tmp_path, GONE, {'load_from': str(trained)}))
    whole = dict(type='Pretrained', checkpoint=str(trained))
    train(config(tmp_path / 'own', GONE, {'model.init_cfg': whole}))


def test_a_flexible_runner_needs_none_either(trained, tmp_path):
    cfg = config(tmp_path, GONE, {'load_from': str(trained), 'resume': True}, max_epochs=2)
    cfg.runner_type, cfg.strategy = 'FlexibleRunner', dict(type='SingleDeviceStrategy')
    runner = RUNNERS.build(cfg)
    runner.train()
    assert runner.epoch == 2
    cfg.update(load_from=str(trained), resume=False, work_dir=str(tmp_path / 'test'))
    RUNNERS.build(cfg).test()


def test_a_fresh_run_says_what_is_not_there(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'checkpoint_path is .*gone\.pth'):
        train(config(tmp_path, GONE))
    content = read_whole(trained)
    del content['state_dict']['backbone.timm_model.bn1.weight']
    torch.save(content, tmp_path / 'part.pth')
    with pytest.raises(FileNotFoundError, match=r'checkpoint_path is .*gone\.pth'):
        train(config(tmp_path, GONE, {'load_from': str(tmp_path / 'part.pth')}))


def test_weights_are_loaded_once_and_in_the_right_place(start):
    backbone = MODELS.build(
        dict(
            type='PooledTimmBackbone',
            model_name='test_resnet',
            checkpoint_path=str(start),
            _scope_='mmpretrain',
        )
    )
    first = backbone.timm_model.conv1[0].weight.clone()
    assert not torch.equal(first, torch.load(start)['conv1.0.weight'])
    backbone.init_weights()
    assert torch.equal(backbone.timm_model.conv1[0].weight, torch.load(start)['conv1.0.weight'])
    with torch.no_grad():
        backbone.timm_model.conv1[0].weight.zero_()
    backbone.init_weights()
    assert not backbone.timm_model.conv1[0].weight.any()


def test_the_same_names_elsewhere_do_not_count(trained, start, tmp_path):
    state = read_whole(trained)['state_dict']
    renamed = {f'encoder.{name}': value for name, value in state.items()}
    torch.save(dict(state_dict=renamed), tmp_path / 'other.pth')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            _scope_='mmpretrain',
            head=None,
            backbone=dict(
                type='PooledTimmBackbone', model_name='test_resnet', checkpoint_path=str(start)
            ),
        )
    )
    announce_checkpoint(model, tmp_path / 'other.pth')
    assert model.backbone.superseded_by is None
    announce_checkpoint(model, trained)
    assert model.backbone.superseded_by == str(trained)
