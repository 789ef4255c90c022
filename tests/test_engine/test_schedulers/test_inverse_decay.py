import numpy as np
import pytest
import torch
from mmpretrain.registry import PARAM_SCHEDULERS

from tests.toy import toy_config, train
from tl_plugin.engine.schedulers import InverseDecayLR


def _optimizer():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=[weights[0]]), dict(params=[weights[1]], lr=0.1)]
    return torch.optim.SGD(groups, lr=1.0)


def test_it_is_the_papers_formula_for_every_group():
    optimizer = _optimizer()
    scheduler = PARAM_SCHEDULERS.build(
        dict(type='InverseDecayLR', end=20, by_epoch=False), default_args=dict(optimizer=optimizer)
    )
    found = []
    for _ in range(20):
        found.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = (1 + 10 * np.arange(20) / 20) ** -0.75
    np.testing.assert_allclose(found, expected[:, None] * [[1.0, 0.1]], rtol=1e-9)


@pytest.mark.parametrize(
    'length', [dict(max_iters=6), dict(max_epochs=2)], ids=['by iteration', 'by epoch']
)
def test_the_runner_knows_its_end(tmp_path, length):
    cfg = toy_config(tmp_path, **length)
    by_epoch = 'max_epochs' in length
    cfg.param_scheduler = dict(
        type='InverseDecayLR', by_epoch=by_epoch, convert_to_iter_based=by_epoch
    )
    runner = train(cfg)
    rates = [float(rate) for rate, _ in zip(*runner.message_hub.get_scalar('train/lr').data)]
    np.testing.assert_allclose(rates, 0.01 * (1 + 10 * np.arange(6) / 6) ** -0.75, rtol=1e-6)


def test_wrong_settings():
    with pytest.raises(ValueError, match='alpha must be >= 0, got -1'):
        InverseDecayLR(_optimizer(), alpha=-1, end=5)
    with pytest.raises(ValueError, match='give it an end'):
        InverseDecayLR(_optimizer())
