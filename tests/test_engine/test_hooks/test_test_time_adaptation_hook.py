"""`--strategy tent` and `sar` from a checkpoint to metrics and an adapted checkpoint."""

import pytest
import torch
from mmengine.runner import Runner

from tests.toy import ToyDataset, fresh_name, toy_config, train
from tl_plugin.launch.runs import build_runner, prepare_test
from tl_plugin.reliability.checkpoints import read_whole

FIELD = dict(shift=0.7, size=24, seed=1)
OPTIONS = {
    'test_cfg': dict(type='DomainTestLoop', dataloaders=dict(target=dict(dataset=FIELD))),
    'test_dataloader.batch_size': 6,
    'model.test_time.min_batch': 2,
    'model.test_time.lr': 0.05,
}
HOOK = 'custom_hooks.0.'


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, options={'train_dataloader.dataset.size': 48}, max_epochs=4))
    return str(folder / 'epoch_4.pth')


def streamed(folder, start, strategy, options=None):
    cfg = toy_config(folder, [strategy], {**OPTIONS, **(options or {})})
    cfg.experiment_name = fresh_name('tta')
    runner = build_runner(prepare_test(cfg, start, work_dir=folder))
    return runner, runner.test()


@pytest.mark.parametrize('strategy', ['tent', 'sar'])
def test_the_stream_is_adapted_to_and_the_source_is_not(tmp_path, start, strategy):
    plain = {name: value for name, value in OPTIONS.items() if 'test_time' not in name}
    cfg = toy_config(tmp_path / 'plain', options={**plain, 'load_from': start})
    before = Runner.from_cfg(cfg).test()
    _, metrics = streamed(tmp_path, start, strategy, {HOOK + 'save': True})
    assert metrics['source/accuracy/top1'] == before['source/accuracy/top1']
    # The weights that were saved are the adapted ones, of norms alone, for a network that is plain.
    old, new = read_whole(start)['state_dict'], read_whole(tmp_path / 'adapted.pth')['state_dict']
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all(
        '.bn' in name or '.norm' in name or 'downsample.1' in name for name in changed
    ), changed
    again = build_runner(
        prepare_test(toy_config(tmp_path / 'again', options=plain), str(tmp_path / 'adapted.pth'))
    )
    again.model.eval()
    assert isinstance(again.test()['target/accuracy/top1'], float)


def test_the_state_is_dropped_unless_it_is_saved(tmp_path, start):
    runner, first = streamed(tmp_path, start, 'tent')
    assert not (tmp_path / 'adapted.pth').exists()
    again = runner.test()  # begins with the weights that are there
    assert again.keys() == first.keys()


def test_it_says_why_a_single_batch_changes_nothing(tmp_path, start):
    for size, said in {24: True, 6: False}.items():
        folder = tmp_path / str(size)
        streamed(folder, start, 'sar', {'test_dataloader.batch_size': size, 'log_level': 'INFO'})
        (log,) = folder.glob('*/*.log')
        assert ('a first batch is never adapted to; smaller ones' in log.read_text()) == said


def test_a_budget_of_source_accuracy_ends_in_the_source_model(tmp_path, start):
    options = {
        HOOK + 'budget': 0.0,
        HOOK + 'interval': 1,
        HOOK + 'save': True,
        'model.test_time.lr': 500.0,  # ruins the model in one step
        'model.test_time.guard': 'none',
        'test_dataloader.batch_size': 24,
        'test_cfg.dataloaders.target.dataset.size': 24,
    }
    streamed(tmp_path, start, 'tent', options)
    old, new = read_whole(start)['state_dict'], read_whole(tmp_path / 'adapted.pth')['state_dict']
    assert all(
        torch.equal(value, new[name]) for name, value in old.items() if 'tracked' not in name
    )


def test_validation_in_a_training_never_adapts(tmp_path):
    cfg = toy_config(tmp_path, ['tent'], OPTIONS, max_epochs=1)
    runner = train(cfg)
    assert not runner.model.adapting
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.val()
    assert all(torch.equal(v, before[n]) for n, v in runner.model.state_dict().items())
    runner.test()
    assert any(not torch.equal(v, before[n]) for n, v in runner.model.state_dict().items())


def test_what_it_refuses(tmp_path, start):
    with pytest.raises(ValueError, match='use the overlay tent or sar'):
        cfg = toy_config(tmp_path, options={'custom_hooks': [dict(type='TestTimeAdaptationHook')]})
        Runner.from_cfg(cfg).test()
    with pytest.raises(ValueError, match='has no domain source'):
        streamed(tmp_path, start, 'tent', {HOOK + 'budget': 1.0, 'test_cfg': dict(_delete_=True)})
    with pytest.raises(ValueError, match='leave them out'):
        offline = {HOOK + 'target_dataloader': dict(dataset=FIELD), HOOK + 'save': True}
        streamed(tmp_path, start, 'tent', offline)
    several = dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=64)
    with pytest.raises(ValueError, match='entropy over classes, one an image'):
        streamed(tmp_path, start, 'sar', {'model.head': dict(_delete_=True, **several)})
    assert len(ToyDataset()) == 12
