import numpy as np
import pytest
import torch

from tl_plugin.functional import effective_rank, relative_spread


@pytest.mark.parametrize('shape', [(7, 20), (30, 4), (2, 3)])
def test_rank_and_spread_are_those_of_numpy(shape):
    features = np.random.default_rng(0).normal(2.0, 3.0, shape)
    centred = features - features.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.tensor(features)).item() == pytest.approx(rank)
    spread = np.linalg.norm(centred) / np.linalg.norm(features)
    assert relative_spread(torch.tensor(features)).item() == pytest.approx(spread)


def test_one_point_has_neither():
    for features in (torch.zeros(5, 3), torch.full((5, 3), 2.0)):
        assert effective_rank(features) == 0 and relative_spread(features) == 0
