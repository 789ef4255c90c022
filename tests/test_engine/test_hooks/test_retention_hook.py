"""The budget of source accuracy in real runs: what is logged, where it ends, what is left."""

import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import fresh_name, toy_config, train
from tl_plugin.engine.hooks import RetentionHook
from tl_plugin.functional import prediction_flips
from tl_plugin.reliability.checkpoints import read_whole

DOMAINS = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5, size=7))))
# A run on labels that are wrong: the source ability goes, validation by validation.
FORGETTING = {
    'train_dataloader.dataset.labels': 'scrambled',
    'train_cfg.val_interval': 1,
    'optim_wrapper.optimizer.lr': 0.05,
    'val_cfg': DOMAINS,
    'val_dataloader.dataset.size': 13,
    'default_hooks.checkpoint.max_keep_ckpts': 9,
}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A source model that is right on all of its images."""
    folder = tmp_path_factory.mktemp('source')
    options = {'optim_wrapper.optimizer.lr': 0.1, 'train_cfg.val_interval': 20}
    runner = train(toy_config(folder, options=options, max_epochs=12))
    assert runner is not None
    return folder / 'epoch_12.pth'


def _config(folder, source, epochs=6, **options):
    known = ('budget', 'action', 'metric', 'patience')
    hook = {'patience': 0, **{key: options.pop(key) for key in known if key in options}}
    cfg = toy_config(
        folder, ('retention',), {**FORGETTING, 'load_from': str(source), **options}, epochs
    )
    cfg.custom_hooks[0].update(hook)
    return cfg


def _logged(folder):
    """Validation records of all attempts, by epoch."""
    records = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if 'source/accuracy/top1' in record:
                records[record['step']] = record
    return records


def _state(path):
    return read_whole(path)['state_dict']


def _equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_is_logged_is_what_testing_the_checkpoints_gives(source, tmp_path):
    runner = train(_config(tmp_path, source, action='log'))
    assert runner.epoch == 6
    before, _ = _predict(source, tmp_path)
    records = _logged(tmp_path)
    assert sorted(records) == [1, 2, 3, 4, 5, 6]
    forgetting = [record['retention/forgetting'] for record in records.values()]
    assert min(forgetting) < max(forgetting)  # something was forgotten, or this shows nothing
    for epoch, record in records.items():
        found, _ = _predict(tmp_path / f'epoch_{epoch}.pth', tmp_path)
        labels = torch.arange(13) % 3
        lost = 100 * ((before == labels).float().mean() - (found == labels).float().mean())
        assert record['retention/forgetting'] == pytest.approx(lost.item(), abs=1e-3)
        agreement = 100 * (before == found).float().mean()
        assert record['retention/agreement'] == pytest.approx(agreement.item(), abs=1e-3)


def _predict(path, folder):
    """A checkpoint's predictions of the source images, by mmengine's test loop alone."""
    cfg = toy_config(folder, options={'load_from': str(path), 'test_dataloader.dataset.size': 13})
    cfg.experiment_name = fresh_name('predict')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    model, labels = runner.model.eval(), []
    with torch.no_grad():
        for batch in runner.build_dataloader(cfg.test_dataloader):
            labels += [sample.pred_label.item() for sample in model.test_step(batch)]
    return torch.tensor(labels), runner


@pytest.mark.parametrize('action', ['stop', 'roll_back'])
def test_training_ends_beyond_the_budget(source, tmp_path, action):
    runner = train(_config(tmp_path, source, action=action, budget=10.0))
    records = _logged(tmp_path)
    lost = [record['retention/forgetting'] for record in records.values()]
    assert runner.epoch == len(lost) < 6
    assert lost[-1] > 10 and all(value <= 10 for value in lost[:-1])
    inside = len(lost) - 1
    expected = _state(tmp_path / f'epoch_{inside}.pth' if inside else source)
    assert _equal(expected, _state(tmp_path / 'inside_budget.pth'))
    ends_as = expected if action == 'roll_back' else _state(tmp_path / f'epoch_{len(lost)}.pth')
    assert _equal(ends_as, runner.model.state_dict())


@pytest.mark.slow
def test_patience_counts_validations_in_a_row(source, tmp_path):
    lost = [record['retention/forgetting'] > 10 for record in _log_of_a_whole_run(source, tmp_path)]
    first = lost.index(True)
    assert lost[first + 1], 'the run forgets for good, or this shows nothing'
    runner = train(_config(tmp_path / 'patient', source, budget=10.0, patience=1))
    assert runner.epoch == first + 2
    # One who comes to the end beyond the budget is given the weights back as well.
    runner = train(_config(tmp_path / 'end', source, budget=10.0, patience=99))
    assert runner.epoch == 6 and lost[-1]
    assert _equal(_state(tmp_path / 'end/inside_budget.pth'), runner.model.state_dict())
    assert not _equal(_state(tmp_path / 'end/epoch_6.pth'), runner.model.state_dict())


def _log_of_a_whole_run(source, folder):
    train(_config(folder / 'whole', source, action='log'))
    return list(_logged(folder / 'whole').values())


def test_inside_the_budget_it_runs_to_its_end(source, tmp_path):
    runner = train(_config(tmp_path, source, budget=100.0))
    assert runner.epoch == 6
    assert _equal(_state(tmp_path / 'inside_budget.pth'), runner.model.state_dict())


def test_a_plain_validation_is_the_source(source, tmp_path):
    cfg = _config(tmp_path, source, epochs=1, action='log')
    cfg.val_cfg = dict()
    logged = train(cfg).message_hub.log_scalars
    assert 'val/accuracy/top1' in logged and 'val/retention/agreement' in logged


@HOOKS.register_module()
class StopAfter(Hook):
    def __init__(self, epochs):
        self.epochs = epochs

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epochs:
            runner.train_loop.stop_training = True


def test_a_resumed_run_measures_against_the_same_baseline(source, tmp_path):
    whole = train(_config(tmp_path / 'whole', source, action='log'))
    cfg = _config(tmp_path / 'cut', source, action='log')
    cfg.custom_hooks.append(dict(type='StopAfter', epochs=3))
    train(cfg)
    cfg = _config(tmp_path / 'cut', tmp_path / 'cut/epoch_3.pth', action='log', resume=True)
    resumed = train(cfg)
    assert _equal(whole.model.state_dict(), resumed.model.state_dict())
    one, other = _logged(tmp_path / 'whole'), _logged(tmp_path / 'cut')
    for epoch in (4, 5, 6):
        for name in ('retention/forgetting', 'retention/agreement'):
            assert one[epoch][name] == other[epoch][name]


def test_roll_back_gives_averaged_weights_beside_an_ema(source, tmp_path):
    cfg = _config(tmp_path, source, budget=10.0)
    cfg.custom_hooks.insert(0, dict(type='EMAHook', momentum=0.4))
    runner = train(cfg)
    inside = runner.epoch - 1
    expected = _state(tmp_path / f'epoch_{inside}.pth' if inside else source)
    weights = dict(runner.model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_what_is_missing_is_named(source, tmp_path):
    with pytest.raises(ValueError, match="validation images of the domain 'source'"):
        train(_config(tmp_path, source, val_cfg=None, val_dataloader=None, val_evaluator=None))
    with pytest.raises(ValueError, match='measures f1 on the source, and the validation gives so'):
        train(_config(tmp_path, source, metric='f1'))
    with pytest.raises(ValueError, match='no measurement of its source model'):
        train(_config(tmp_path, source, resume=True, epochs=14))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(budget=-1), 'at least 0 points, got -1'),
        (dict(patience=-1), 'patience must be at least 0'),
        (dict(action='halt'), "log, stop, roll_back, got 'halt'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        RetentionHook(**options)


def _on_every_rank(folder, source):
    cfg = _config(
        folder,
        source,
        epochs=2,
        action='log',
        launcher='pytorch',
        model_wrapper_cfg=dict(CPU_MODEL_WRAPPER),
    )
    runner = train(cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, RetentionHook))
    logged = runner.message_hub.log_scalars
    return hook.baseline.predictions, [
        logged[f'val/retention/{name}'].current() for name in ('forgetting', 'agreement')
    ]


def test_ranks_see_all_images_in_their_order(source, tmp_path):
    expected, _ = _predict(source, tmp_path / 'one')
    ranks = run_distributed(_on_every_rank, tmp_path / 'two', source)
    for predictions, values in ranks:
        assert torch.equal(predictions, expected)  # 13 images: one rank gets one of them twice
        assert values == ranks[0][1]


class TestFlips:
    def test_shares_are_those_of_counting(self):
        source, adapted, labels = (torch.randint(3, (50,)) for _ in range(3))
        labels[::7] = -1
        pairs = list(zip(source.tolist(), adapted.tolist(), labels.tolist()))
        known = [pair for pair in pairs if pair[2] >= 0]
        found = prediction_flips(source, adapted, labels)
        assert found.flipped == pytest.approx(sum(a != b for a, b, _ in pairs) / 50)
        gained = sum(a != label and b == label for a, b, label in known)
        lost = sum(a == label and b != label for a, b, label in known)
        assert found.gained == pytest.approx(gained / len(known))
        assert found.lost == pytest.approx(lost / len(known))

    def test_without_labels(self):
        flips = prediction_flips(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([-1, -1]))
        assert flips == (0.5, None, None)

    def test_different_numbers_of_images(self):
        with pytest.raises(ValueError, match='got 2 and 3'):
            prediction_flips(torch.zeros(2), torch.zeros(3))
