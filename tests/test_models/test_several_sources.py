"""Several sources through the same config keys."""

import pytest
import torch
from mmpretrain.registry import DATASETS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_models.test_alignments.batches import build, domain
from tests.toy import loader, toy_config, train

SOURCES = [
    dict(type='ToyDataset', size=8, pipeline=[dict(type='PackInputs')]),
    dict(type='ToyDataset', size=10, shift=0.2, seed=3, pipeline=[dict(type='PackInputs')]),
]
SEVERAL = dict(type='SeveralSources', datasets=SOURCES)
#: No type: like the first source. Its own data root in real configs.
TARGET = {'train_cfg.target_dataloader': dict(dataset=dict(shift=0.5, labels='none', size=9))}


def _config(work_dir, num_sources=2, sources=SEVERAL, **options):
    head = {'model.alignments.dann': dict(num_sources=num_sources, hidden_channels=[8])}
    cfg = toy_config(work_dir, ['dann'], {**head, **TARGET, **options}, max_epochs=1)
    cfg.train_dataloader = loader()
    cfg.train_dataloader.dataset = sources
    return cfg


def test_it_trains_and_each_image_says_its_source(tmp_path):
    cfg = _config(tmp_path)
    cfg.train_dataloader.batch_size = 18
    seen = []
    runner = train(cfg)
    assert runner.model.alignments['dann'].classifier[-1].out_features == 3
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar('train/loss_dann').current()))
    pair = runner.train_loop.dataloader
    assert type(pair.target.loader.dataset).__name__ == 'ToyDataset'
    dataset = pair.source.dataset
    for index in range(len(dataset)):
        seen.append(dataset[index]['data_samples'].source_index)
    assert seen == [0] * 8 + [1] * 10


def test_the_head_gets_the_right_numbers(tmp_path):
    runner = train(_config(tmp_path))
    model, batches = runner.model, []
    model.alignments['dann'].register_forward_pre_hook(lambda _, args: batches.append(args))
    pair = iter(runner.train_loop.dataloader)
    for batch in pair:
        expected = [sample.source_index for sample in batch['source']['data_samples']]
        model(**model.data_preprocessor(batch, True), mode='loss')
        assert batches[-1][0].domains.tolist() == expected
        assert batches[-1][1].domains is None


@pytest.mark.parametrize(
    ('num_sources', 'sources', 'message'),
    [
        (2, SOURCES[0], r"num_sources=2, but .* do not say .*type='SeveralSources'"),
        (2, dict(SEVERAL, datasets=[*SOURCES, SOURCES[0]]), 'source number 2, counted from 0'),
        (0, SEVERAL, 'num_sources must be at least 1, got 0'),
    ],
)
def test_what_it_refuses(tmp_path, num_sources, sources, message):
    with pytest.raises(ValueError, match=message):
        train(_config(tmp_path, num_sources, sources))


def test_one_head_takes_all_for_one_source(tmp_path):
    runner = train(_config(tmp_path, num_sources=1))
    assert runner.model.alignments['dann'].classifier[-1].out_features == 1


def test_a_head_without_numbers_or_with_a_penalty_is_refused():
    with pytest.raises(ValueError, match='num_sources=2 needs to know which source'):
        build('DANNHead', num_sources=2)(domain(4)._replace(domains=None), domain(4))
    with pytest.raises(ValueError, match='works with num_sources=1 only'):
        build('DANNHead', num_sources=2, gradient_penalty=1.0)


@pytest.mark.parametrize(
    ('ratio', 'expected'), [(0.5, [10, 8, 5]), (1.0, [10, 12, 10]), (None, [10, 4, 1])]
)
def test_small_data_sets_are_seen_as_often_as_asked_for(ratio, expected):
    parts = [dict(SOURCES[0], size=size) for size in (10, 4, 1)]
    data = DATASETS.build(dict(SEVERAL, datasets=parts, least_ratio=ratio))
    numbers = [data[index]['data_samples'].source_index for index in range(len(data))]
    # Whole passes: the next multiple of what there is.
    assert [numbers.count(number) for number in range(3)] == expected
    last = [data[len(data) - step]['data_samples'].sample_idx for step in (1, 2)]
    assert last == ([0, 3] if ratio is None else [0, 0])


def test_a_wrapped_data_set_is_a_source_too():
    fold = dict(type='KFoldDataset', dataset=SOURCES[0], num_splits=2)
    data = DATASETS.build(dict(SEVERAL, datasets=[fold, SOURCES[1]]))
    assert [data[index]['data_samples'].source_index for index in (0, 3, 4, 13)] == [0, 0, 1, 1]


@pytest.mark.parametrize('ratio', [0, -1, 1.5])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r'least_ratio is the size .* \(0, 1\], got'):
        DATASETS.build(dict(SEVERAL, least_ratio=ratio))


def _on_two_ranks(work_dir):
    cfg = _config(
        work_dir,
        launcher='pytorch',
        model_wrapper_cfg=CPU_MODEL_WRAPPER,
        **{'env_cfg.dist_cfg': dict(backend='gloo')},
    )
    runner = train(cfg)
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


def test_it_trains_in_two_processes(tmp_path):
    one, other = run_distributed(_on_two_ranks, str(tmp_path))
    assert torch.equal(one, other) and torch.isfinite(one).all()
