import os
import pickle

import pytest
import torch
from torch import nn

from tl_plugin.ladder.run_rung import (
    accuracy,
    count_parameters,
    newest_checkpoint,
    read_predictions,
)


def save(path, age):
    torch.save({'state_dict': {}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path / 'epoch_9.pth', age=2)
    save(tmp_path / 'epoch_10.pth', age=1)
    assert newest_checkpoint(tmp_path).name == 'epoch_10.pth'
    (tmp_path / 'epoch_11.pth').write_bytes((tmp_path / 'epoch_10.pth').read_bytes()[:100])
    (tmp_path / 'epoch_12.pth').touch()
    assert newest_checkpoint(tmp_path).name == 'epoch_10.pth'


def test_a_checkpoint_chosen_by_labels_is_no_start(tmp_path):
    save(tmp_path / 'epoch_9.pth', age=2)
    save(tmp_path / 'best_target_accuracy_top1_epoch_3.pth', age=0)
    assert newest_checkpoint(tmp_path).name == 'epoch_9.pth'


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
    found = read_predictions(tmp_path)
    assert list(found) == ['source', 'target']
    assert found['target'] == dict(truth=truth, predicted=predicted, confidence=[0.75] * 3)
    assert accuracy(found['source']) == pytest.approx(200 / 3, abs=1e-3)


def test_only_what_trains_counts_as_trainable():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    model[0].requires_grad_(False)
    assert count_parameters(model) == dict(trainable_parameters=15, parameters=23)
