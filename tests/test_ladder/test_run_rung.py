import pickle

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.toy import toy_config, train
from tl_plugin.ladder.kept_layers import compare_layers
from tl_plugin.ladder.run_records import Predictions
from tl_plugin.ladder.run_rung import (
    count_parameters,
    final_validation,
    gather_predictions,
    kept_checkpoint,
    share_batches,
)
from tl_plugin.reliability.checkpoints import read_whole


def test_predictions_are_gathered_per_domain_in_order(tmp_path):
    truth, predicted = [2, 0, 1], [2, 1, 1]
    samples = [
        dict(
            gt_label=torch.tensor([label]),
            pred_label=torch.tensor([guess]),
            pred_score=torch.nn.functional.one_hot(torch.tensor(guess), 3) * 0.75,
        )
        for label, guess in zip(truth, predicted)
    ]
    for domain in ('source', 'target'):
        with (tmp_path / f'predictions.{domain}.pkl').open('wb') as file:
            pickle.dump(samples, file)
    found = gather_predictions(tmp_path)
    assert list(found) == ['source', 'target']
    assert found['target'].predictions == Predictions((2, 0, 1), (2, 1, 1), (0.75,) * 3)
    assert found['source'].predictions.accuracy == pytest.approx(200 / 3, abs=1e-3)


def test_processes_share_a_batch_or_refuse_it():
    loaders = dict(batch_size=8), dict(dataset=dict(type='ToyDataset'))
    cfg = Config(dict(train_dataloader=loaders[0], train_cfg=dict(target_dataloader=loaders[1])))
    share_batches(cfg, 2)
    assert cfg.train_dataloader.batch_size == 4
    assert 'batch_size' not in cfg.train_cfg.target_dataloader  # it inherits the source's
    cfg.train_cfg.target_dataloader.batch_size = 6
    with pytest.raises(ValueError, match=r'train_cfg\.target_dataloader\.batch_size .* 8 say'):
        share_batches(cfg, 4)


def test_only_what_trains_counts_as_trainable():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    model[0].requires_grad_(False)
    assert count_parameters(model) == dict(trainable_parameters=15, parameters=23)


DOMAINS = dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5, size=7))))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A source model that is right on all of its images."""
    folder = tmp_path_factory.mktemp('source')
    options = {'optim_wrapper.optimizer.lr': 0.1, 'train_cfg.val_interval': 20}
    train(toy_config(folder, options=options, max_epochs=12))
    return folder / 'epoch_12.pth'


def forgetting(folder, source, budget):
    """A run on labels that are wrong, under a budget of source accuracy."""
    options = {
        'train_dataloader.dataset.labels': 'scrambled',
        'optim_wrapper.optimizer.lr': 0.05,
        'val_cfg': DOMAINS,
        'load_from': str(source),
        'train_cfg.val_interval': 1,
    }
    cfg = toy_config(folder, ('retention',), options, max_epochs=4)
    cfg.custom_hooks[0].update(budget=budget, patience=9)
    return train(cfg)


def test_a_run_that_went_back_to_its_budget_gives_that_model(source, tmp_path):
    runner = forgetting(tmp_path, source, budget=5.0)
    path = kept_checkpoint(runner)
    assert path == tmp_path / 'inside_budget.pth'
    kept = read_whole(path)['state_dict']
    assert all(torch.equal(kept[name], value) for name, value in runner.model.state_dict().items())
    logged = final_validation(runner, tmp_path)['source/accuracy/top1']
    measured = final_validation(runner, tmp_path, fresh=True)['source/accuracy/top1']
    assert logged < measured


def test_a_run_inside_its_budget_gives_its_last_model(source, tmp_path):
    assert kept_checkpoint(forgetting(tmp_path, source, budget=100.0)) is None


def test_layers_are_compared_with_the_source_model(source, tmp_path):
    runner = forgetting(tmp_path / 'itself', source, budget=0.0)  # goes back to the source model
    found = compare_layers(runner, source)
    assert found.images == dict(source=12, target=7)
    for domain in ('source', 'target'):
        assert found.cka[domain] == pytest.approx([1.0] * len(found.layers), abs=1e-3)
        assert found.flips[domain] == 0
    other = compare_layers(forgetting(tmp_path / 'other', source, budget=100.0), source)
    assert min(other.cka['target']) < 0.99
    assert other.layers == found.layers


def test_another_network_is_not_compared(source, tmp_path):
    runner = forgetting(tmp_path, source, budget=100.0)
    weights = read_whole(source)
    weights['state_dict']['head.fc.bias'] = torch.zeros(5)
    torch.save(weights, tmp_path / 'other.pth')
    assert compare_layers(runner, tmp_path / 'other.pth') is None
