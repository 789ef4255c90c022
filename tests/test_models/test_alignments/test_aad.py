"""Neighbours that attract and a batch that disperses, and the memory that they are found in."""

import numpy as np
import pytest
import torch

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_engine.test_loops.test_source_free_loop import _config, checkpoint  # noqa: F401
from tests.tiny_runs import state_of
from tests.toy import target, toy_config, train
from tl_plugin.models.neighbour_memory import NeighbourMemory
from tl_plugin.reliability.checkpoints import read_whole

from .batches import build, domain, softmax


@pytest.mark.parametrize(('beta', 'progress'), [(0.0, 0.7), (2.0, 0.0), (2.0, 0.7)])
def test_value_is_that_of_loops(beta, progress):
    batch = domain(6, seed=1, scale=2.0)
    p, near = softmax(batch.logits.detach().double().numpy()), batch.neighbours.double().numpy()
    attraction = np.mean([sum(p[i] @ near[i, k] for k in range(5)) for i in range(6)])
    dispersion = np.mean([sum(p[i] @ p[j] for j in range(6) if j != i) for i in range(6)])
    expected = (1 + 10 * progress) ** -beta * dispersion - attraction
    alignment = build('AaDAlignment', progress, beta=beta)
    assert alignment(domain(3), batch).item() == pytest.approx(expected, rel=1e-5)
    assert alignment.diagnostics['attraction'].item() == pytest.approx(attraction, rel=1e-5)
    assert alignment.diagnostics['dispersion'].item() == pytest.approx(dispersion, rel=1e-5)


def test_neighbours_are_those_of_a_search_without_the_image_itself():
    features = torch.nn.functional.normalize(torch.randn(9, 4))
    features[7] = features[2]  # a copy is a neighbour
    probabilities = torch.randn(9, 3).softmax(1)
    memory = NeighbourMemory(features.clone(), probabilities.clone())
    new, logits, indices = 5 * torch.randn(2, 4), torch.randn(2, 3), torch.tensor([4, 2])
    memory.update(indices, new, logits)
    features[indices] = new / new.norm(dim=1, keepdim=True)
    probabilities[indices] = logits.softmax(1)
    found = memory.neighbours(torch.tensor([7, 4]), 3)
    for row, index in enumerate((7, 4)):
        others = sorted(
            set(range(9)) - {index}, key=lambda j: -float(features[index] @ features[j])
        )
        torch.testing.assert_close(found[row], probabilities[others[:3]])


def run(folder, start, **options):
    cfg = _config(folder, start, strategies=('aad',), **options)
    cfg.param_scheduler = None
    return train(cfg)


def test_the_memory_is_filled_by_a_pass_and_renewed_by_each_step(tmp_path, checkpoint):  # noqa: F811
    source = read_whole(checkpoint)['state_dict']
    runner = run(tmp_path, checkpoint, size=30, max_iters=1)
    saved = read_whole(tmp_path / 'iter_1.pth')['hook_msgs']['neighbour_memory']
    assert saved['features'].shape == (30, 64) and saved['probabilities'].shape == (30, 3)
    model = runner.model
    model.load_state_dict(source, strict=False)
    dataset = runner.train_dataloader.dataset
    images = torch.stack([dataset[index]['inputs'] for index in range(30)])
    with torch.no_grad():
        feats = model.eval().extract_feat(model.data_preprocessor(dict(inputs=images))['inputs'])
    features = torch.nn.functional.normalize(model.features_of(feats))
    same = torch.isclose(saved['features'], features, atol=1e-5).all(1)
    assert same.sum() == 30 - 4  # a batch of four has been renewed
    close = torch.isclose(saved['probabilities'], model.logits_of(feats).softmax(1), atol=1e-5)
    assert close[same].all()


def test_it_helps_and_ends_alike_when_resumed(tmp_path, checkpoint):  # noqa: F811
    whole = run(tmp_path / 'whole', checkpoint, size=30, max_iters=16)
    resumed = run(
        tmp_path / 'resumed',
        str(tmp_path / 'whole' / 'iter_10.pth'),
        size=30,
        max_iters=16,
        resume=True,
    )
    states = [state_of(runner.model) for runner in (whole, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    logged = whole.message_hub.log_scalars
    assert 'train/loss_cls' not in logged and 'train/aad_attraction' in logged
    attraction = logged['train/aad_attraction'].data[0]
    assert attraction[-1] > attraction[0]


def on_rank(folder, start):
    runner = run(
        folder,
        start,
        size=11,
        max_epochs=1,
        launcher='pytorch',
        model_wrapper_cfg=CPU_MODEL_WRAPPER,
        **{'env_cfg.dist_cfg': dict(backend='gloo')},
    )
    model = runner.model.module
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return weights, model.neighbour_memory()


def test_two_processes_share_one_memory(tmp_path, checkpoint):  # noqa: F811
    (weights, memory), (others, other) = run_distributed(on_rank, str(tmp_path), checkpoint)
    assert len(memory['features']) == 11
    for one, two in ((weights, others), (memory, other)):
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_beside_a_source_and_errors(tmp_path):
    cfg = toy_config(tmp_path, ['dann'], target(), max_iters=2)
    cfg.model.alignments.aad = dict(type='AaDAlignment')
    with pytest.raises(ValueError, match=r'NeighbourMemoryHook.* to custom_hooks'):
        train(cfg)
    cfg.custom_hooks.append(dict(type='NeighbourMemoryHook'))
    assert train(cfg).model.neighbour_memory()['features'].shape == (9, 64)
    cfg.model.alignments.aad.num_neighbours = 9
    with pytest.raises(ValueError, match='need more images than that, got 9: lower'):
        train(cfg)
    with pytest.raises(ValueError, match='beta must be >= 0'):
        build('AaDAlignment', beta=-1.0)
