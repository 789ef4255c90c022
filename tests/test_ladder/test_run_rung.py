import pickle

import pytest
import torch
from torch import nn

from tl_plugin.ladder.run_rung import accuracy, count_parameters, read_predictions


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
