"""Images that can't be read are replaced, counted and named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import HOOKS
from PIL import Image
from scipy.stats import ttest_ind

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import toy_config, train
from tl_plugin.datasets.digits import load_scans
from tl_plugin.reliability import BadImagesHook
from tl_plugin.reliability.bad_images import read_or_replace

EXACT = dict(type='ExactResumeHook')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]


@pytest.fixture
def folder(tmp_path):
    """Three classes of 10 images; 2 are no images, 1 is cut off, 1 vanishes later."""
    for label, name in enumerate(('blue', 'green', 'red')):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for number in range(10):
            image = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            image[..., label] = 255
            Image.fromarray(image).save(tmp_path / 'data' / name / f'{number}.png')
    data = tmp_path / 'data'
    (data / 'blue' / '3.png').write_bytes(b'no image')
    (data / 'red' / '4.png').write_bytes(b'')
    cut = data / 'green' / '5.png'
    cut.write_bytes(cut.read_bytes()[:60])
    return data


BAD = {'blue/3.png', 'red/4.png', 'green/5.png'}


@HOOKS.register_module(force=True)
class Vanish(Hook):
    """Deletes a file once the run has begun, and records batches."""

    def __init__(self, path: str) -> None:
        self.path, self.seen, self.sizes = path, [], []

    def before_train(self, runner) -> None:
        Path(self.path).unlink(missing_ok=True)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        samples = data_batch['data_samples']
        self.sizes.append(len(samples))
        self.seen += [Path(sample.img_path).name for sample in samples]


def config(work_dir, data, options=None, max_epochs=2, **hook):
    cfg = toy_config(work_dir, options={'train_cfg.val_interval': 9}, max_epochs=max_epochs)
    cfg.train_dataloader.update(batch_size=5)
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset', data_root=str(data), pipeline=PIPELINE, with_label=True
    )
    cfg.default_hooks.checkpoint = dict(type='AtomicCheckpointHook', interval=1)
    vanish = dict(type='Vanish', path=str(data / 'red' / '7.png'))
    cfg.custom_hooks = [EXACT, dict(type='BadImagesHook', **{'limit': 0.2, **hook}), vanish]
    cfg.merge_from_dict(options or {})
    return cfg


def hook_of(runner, kind):
    return next(hook for hook in runner.hooks if type(hook).__name__ == kind)


@pytest.mark.parametrize('workers', [0, 2])
def test_they_are_replaced_counted_and_named(workers, folder, tmp_path):
    runner = train(config(tmp_path, folder, {'train_dataloader.num_workers': workers}))
    found = hook_of(runner, 'BadImagesHook').unreadable['train']
    names = {str(Path(name).relative_to(folder)) for name in found}
    assert names == BAD | {'red/7.png'}
    assert 'FileNotFoundError' in found[str(folder / 'red' / '7.png')]
    assert set(hook_of(runner, 'Vanish').sizes) == {5}
    assert runner.iter == 12
    assert runner.message_hub.get_info('unreadable_images')['train'] == found


def test_two_hundred_faults_are_counted_exactly(tmp_path):
    data = tmp_path / 'data'
    for name in ('a', 'b', 'c'):
        (data / name).mkdir(parents=True)
    blank = Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8))
    broken = set()
    for number in range(600):
        path = data / 'abc'[number % 3] / f'{number}.png'
        if number % 3 == 1:
            path.write_bytes(b'')
            broken.add(str(path))
        else:
            blank.save(path)
    options = {'train_dataloader.batch_size': 50}
    runner = train(config(tmp_path, data, options, max_epochs=1, limit=200))
    assert set(hook_of(runner, 'BadImagesHook').unreadable['train']) == broken
    assert len(broken) == 200


@pytest.mark.parametrize(
    'wrap', [lambda data: ConcatDataset([data, data]), lambda data: RepeatDataset(data, times=2)]
)
def test_a_decoder_that_fails_is_found_inside_of_wrapped_data_sets(wrap, folder):
    dataset = wrap(CustomDataset(data_root=str(folder), pipeline=PIPELINE))
    replaced = read_or_replace(dataset, len(dataset) // 2 + 3, tries=9)
    assert replaced.faults[0].name == str(folder / 'blue' / '3.png')
    assert replaced.faults[0].reason.startswith('AssertionError')


def test_past_the_limit_the_run_stops(folder, tmp_path):
    with pytest.raises(OSError, match=r'4 of 30 train images cannot be read, more than .* 3'):
        train(config(tmp_path, folder, limit=3))


def test_a_wrong_path_ends_at_once(folder, tmp_path):
    for path in folder.rglob('*.png'):
        path.write_bytes(b'')
    with pytest.raises(OSError, match=r'images in a row could not be read.*data_root'):
        train(config(tmp_path, folder, limit=1.0))


def test_a_resumed_run_counts_on(folder, tmp_path):
    train(config(tmp_path, folder, max_epochs=1))
    cfg = config(tmp_path, folder, max_epochs=2, limit=4)
    cfg.resume = True
    runner = train(cfg)
    assert len(hook_of(runner, 'BadImagesHook').unreadable['train']) == 4


def test_a_mistake_in_a_transform_is_no_broken_image(folder, tmp_path):
    cfg = config(tmp_path, folder)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomCrop', crop_size=64),
        dict(type='Normalize', mean=[0, 0], std=[1]),
        dict(type='PackInputs'),
    ]
    with pytest.raises(cv2.error):
        train(cfg)


@pytest.mark.parametrize('kwargs', [dict(limit=-1), dict(limit=1.5), dict(tries=0)])
def test_wrong_settings(kwargs):
    with pytest.raises(ValueError, match='expected a'):
        BadImagesHook(**kwargs)


def _train_on_ranks(folder: str, data: str) -> tuple:
    cfg = config(folder, Path(data))
    cfg.launcher, cfg.model_wrapper_cfg = 'pytorch', CPU_MODEL_WRAPPER
    runner = train(cfg)
    found = hook_of(runner, 'BadImagesHook').unreadable.get('train', {})
    return runner.iter, list(found), [float(v.sum()) for v in runner.model.parameters()]


def test_ranks_stay_in_step(folder, tmp_path):
    first, second = run_distributed(_train_on_ranks, str(tmp_path), str(folder))
    assert first[0] == second[0] == 6 and first[2] == second[2]
    assert {str(Path(p).relative_to(folder)) for p in first[1] + second[1]} >= BAD


@pytest.mark.slow
def test_two_hundred_faults_cost_no_accuracy(tmp_path):
    """Against the run on the same 1,000 digits without the 200 broken files, over three seeds."""
    images, labels = load_scans()
    order = np.random.default_rng(0).permutation(len(images))
    held_out = order[1200:]
    for number, index in enumerate(order[:1200]):
        for name in ('whole', 'faulty') if number >= 200 else ('faulty',):
            path = tmp_path / name / str(labels[index]) / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).convert('RGB').save(path)
        if number < 200:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2 if number % 2 else 0])
    accuracy = {name: [] for name in ('whole', 'faulty')}
    inputs = torch.from_numpy(images[held_out])[:, None].expand(-1, 3, -1, -1)
    for seed in range(3):
        for name, found in accuracy.items():
            cfg = config(tmp_path / f'{name}{seed}', tmp_path / name)
            # As many steps for both: a pass over 1,200 files has more than one over 1,000.
            cfg.train_cfg = dict(by_epoch=False, max_iters=1000)
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            cfg.param_scheduler = dict(type='PolyLR', eta_min=0.0, by_epoch=False)
            cfg.default_hooks.checkpoint.update(interval=1000, by_epoch=False)
            cfg.merge_from_dict(
                {
                    'log_processor': dict(by_epoch=False),
                    'randomness.seed': seed,
                    'train_dataloader.batch_size': 25,
                    'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True),
                    'model.head.num_classes': 10,
                    'data_preprocessor.num_classes': 10,
                    'optim_wrapper.optimizer.lr': 0.05,
                }
            )
            runner = train(cfg)
            broken = hook_of(runner, 'BadImagesHook').unreadable.get('train', ())
            assert len(broken) == (200 if name == 'faulty' else 0)
            model = runner.model.eval()
            with torch.no_grad():
                data = model.data_preprocessor(dict(inputs=inputs))
                scores = torch.stack([s.pred_score for s in model.predict(data['inputs'])])
            truth = torch.from_numpy(labels[held_out])
            found.append((scores.argmax(1) == truth).double().mean().item())
    assert min(map(np.mean, accuracy.values())) > 0.85
    assert ttest_ind(*accuracy.values()).pvalue > 0.01
    assert abs(np.mean(accuracy['whole']) - np.mean(accuracy['faulty'])) < 0.03
