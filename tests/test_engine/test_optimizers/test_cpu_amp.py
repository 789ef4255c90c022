"""Mixed precision on a CPU: what is computed in bfloat16, and what a checkpoint of it holds."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from torch import nn

from tests.tiny_runs import TINY_VIT, tiny_runner
from tests.toy import target, toy_config, train
from tl_plugin.engine.optimizers import CPUAmpOptimWrapper


def wrapper(**options):
    model = nn.Linear(4, 2)
    return model, CPUAmpOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options
    )


def test_a_step_is_that_of_torch_autocast():
    model, optim_wrapper = wrapper(accumulative_counts=1)
    reference = nn.Linear(4, 2)
    reference.load_state_dict(model.state_dict())
    images = torch.rand(3, 4)
    with optim_wrapper.optim_context(model):
        scores = model(images)
    assert scores.dtype == torch.bfloat16
    optim_wrapper.update_params(scores.float().square().mean())
    with torch.autocast('cpu', torch.bfloat16):
        loss = reference(images).float().square().mean()
    loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)


def test_float16_is_refused_with_the_fix():
    for dtype in ('float16', torch.float16):
        with pytest.raises(ValueError, match=r"got .*float16.*: set it to 'bfloat16', or train on"):
            wrapper(dtype=dtype)


def test_checkpoints_go_both_ways():
    """That of a GPU has the state of a scaler; a scaler refuses an empty one."""
    _, ours = wrapper()
    assert 'loss_scaler' not in ours.state_dict()
    ours.load_state_dict({**ours.state_dict(), 'loss_scaler': dict(scale=2.0**16)})
    theirs = AmpOptimWrapper.__new__(AmpOptimWrapper)
    theirs.optimizer = ours.optimizer
    theirs.loss_scaler = torch.amp.GradScaler('cpu')
    theirs.load_state_dict(ours.state_dict())


def test_a_run_resumes_exactly(tmp_path):
    options = dict(model=TINY_VIT, optim_wrapper=dict(type='CPUAmpOptimWrapper'))
    whole = tiny_runner(tmp_path / 'whole', **options)
    whole.train()
    resumed = tiny_runner(
        tmp_path / 'resumed',
        **options,
        load_from=str(tmp_path / 'whole' / 'epoch_2.pth'),
        resume=True,
    )
    resumed.train()
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_dann_trains(tmp_path):
    options = {**target(), 'optim_wrapper.type': 'CPUAmpOptimWrapper'}
    runner = train(toy_config(tmp_path, ('dann',), options, max_iters=2))
    losses = runner.message_hub.get_scalar('train/loss_dann').data[0]
    assert len(losses) == 2 and torch.isfinite(torch.as_tensor(losses)).all()
