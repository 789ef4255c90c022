import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import target, toy_config, train

BY_EPOCH, BY_ITER = dict(max_epochs=3), dict(max_iters=9)


@HOOKS.register_module(force=True)
class RecordPairsHook(Hook):
    """Keeps what each step saw."""

    def before_run(self, runner):
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        ids = {key: [s.img_id for s in data_batch[key]['data_samples']] for key in data_batch}
        self.steps.append(ids)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps[-1]['outputs'] = {key: float(value) for key, value in outputs.items()}


def _run(work_dir, options=None, length=BY_EPOCH, size=9):
    options = {
        **target(size=size),
        'custom_hooks': [dict(type='RecordPairsHook')],
        'train_dataloader.dataset.pipeline': [dict(type='PackInputs', meta_keys=('img_id',))],
        **(options or {}),
    }
    runner = train(toy_config(work_dir, ['dann'], options, **length))
    hook = next(hook for hook in runner.hooks if isinstance(hook, RecordPairsHook))
    return runner, hook.steps


@pytest.mark.parametrize('length', [BY_EPOCH, BY_ITER])
def test_trains_and_logs_by_epoch_and_by_iteration(tmp_path, length):
    runner, steps = _run(tmp_path, length=length)
    assert len(steps) == 9
    for index, step in enumerate(steps):
        assert len(step['source']) == 4
        out = step['outputs']
        assert out['loss'] == pytest.approx(out['loss_cls'] + out['loss_dann'], rel=1e-5)
        assert 0 <= out['dann_accuracy'] <= 1
        expected = 2 / (1 + np.exp(-10 * index / 9)) - 1
        assert out['dann_reversal_weight'] == pytest.approx(expected, abs=1e-5)
    scalars = runner.message_hub.log_scalars
    for name in ('loss_cls', 'loss_dann', 'dann_accuracy', 'dann_reversal_weight'):
        assert f'train/{name}' in scalars


def test_source_and_target_of_one_size_and_order_are_not_paired_up(tmp_path):
    _, steps = _run(tmp_path, size=12, options={'train_cfg.target_dataloader.dataset.seed': 0})
    assert any(step['source'] != step['target'] for step in steps)


@pytest.mark.parametrize('length', [BY_EPOCH, BY_ITER])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, length):
    straight, steps = _run(tmp_path / 'straight', length=length)
    stop = 'epoch_2.pth' if length is BY_EPOCH else 'iter_5.pth'
    options = dict(resume=True, load_from=str(tmp_path / 'straight' / stop))
    resumed, resumed_steps = _run(tmp_path / 'resumed', options, length=length)
    assert resumed_steps == steps[-len(resumed_steps) :]
    assert len(resumed_steps) == (3 if length is BY_EPOCH else 4)
    expected = straight.model.state_dict()
    assert all(torch.equal(expected[key], v) for key, v in resumed.model.state_dict().items())


def test_scrambled_target_labels_give_the_same_bits(tmp_path):
    weights = [
        _run(tmp_path / labels, {'train_cfg.target_dataloader.dataset.labels': labels})[
            0
        ].model.state_dict()
        for labels in ('true', 'scrambled', 'none')
    ]
    for other in weights[1:]:
        assert all(torch.equal(value, other[key]) for key, value in weights[0].items())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_cfg.target_dataloader': None}, 'needs target images and .* is missing'),
        ({'train_cfg.target_dataloader': dict(batch_size=2)}, 'names no data'),
        (target(size=0), 'the target data: the data set has no images: ToyDataset'),
        (target(size=3), None),
        (
            {
                **target(),
                'train_cfg.target_dataloader.drop_last': True,
                'train_cfg.target_dataloader.batch_size': 10,
            },
            'target loader yields no batch',
        ),
        (
            target(metainfo=dict(classes=('red', 'green', 'cyan'))),
            'missing in the source: cyan; missing in the target: blue',
        ),
        (target(metainfo=dict(classes=('green', 'red', 'blue'))), 'their order differs'),
        (target(metainfo=dict(classes=('red', 'green'))), 'target data has 2 classes .* head 3'),
        (target(image_size=40), r'source \(3, 32, 32\) and target \(3, 40, 40\)'),
        ({**target(), 'train_cfg.max_iters': 3}, 'give one of them'),
        ({**target(), 'train_dataloader.dataset.labels': 'none'}, 'source images have no label'),
    ],
)
def test_wrong_targets(tmp_path, options, message):
    cfg = toy_config(tmp_path, ['dann'], options, max_epochs=1)
    if message is None:
        train(cfg)  # fewer images than a batch are fine
        return
    with pytest.raises(ValueError, match=message):
        train(cfg)


def _train_rank(work_dir, strategies, options):
    options = {**options, 'launcher': 'pytorch', 'model_wrapper_cfg': CPU_MODEL_WRAPPER}
    runner = train(toy_config(work_dir, strategies, options, max_epochs=2))
    return {key: value.numpy() for key, value in runner.model.module.state_dict().items()}


@pytest.mark.parametrize('strategies', [('dann',), ('feature_extraction',)])
def test_two_processes_end_with_equal_weights(tmp_path, strategies):
    options = target() if 'dann' in strategies else {}
    ranks = run_distributed(_train_rank, tmp_path, strategies, options)
    for key, value in ranks[0].items():
        # Each rank has its own batch statistics, as without the plugin, unless they are frozen.
        if 'running' not in key or 'feature_extraction' in strategies:
            np.testing.assert_array_equal(value, ranks[1][key], err_msg=key)
