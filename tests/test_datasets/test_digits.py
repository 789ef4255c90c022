import hashlib
import time
from itertools import combinations

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits, load_sample_images

import tl_plugin  # noqa: F401  (registers the dataset)
from tests.programs import run_program
from tl_plugin.datasets.digits import CONDITIONS, SPLIT_SIZES, DigitsDataset, degrade, render


def images(quality, split, **kwargs):
    dataset = DigitsDataset(quality, split, **kwargs)
    return np.stack([dataset.get_data_info(i)['img'] for i in range(len(dataset))])


def digits(dataset):
    return [dataset.get_data_info(i)['digit'] for i in range(len(dataset))]


def test_no_original_digit_is_in_two_splits():
    members = {key: set(digits(DigitsDataset(*key))) for key in SPLIT_SIZES}
    for first, second in combinations(members, 2):
        assert not members[first] & members[second], (first, second)
    assert set.union(*members.values()) == set(range(1797))


def test_no_scan_occurs_twice():
    """So that disjoint indices are disjoint images."""
    assert len({scan.tobytes() for scan in load_digits().images}) == 1797


@pytest.mark.parametrize('key', SPLIT_SIZES)
def test_sizes_and_classes(key):
    dataset = DigitsDataset(*key)
    assert len(dataset) == SPLIT_SIZES[key]
    counts = np.bincount(dataset.get_gt_labels(), minlength=10)
    if key == ('field', 'train'):  # the rest
        assert counts.max() - counts.min() <= 10
    else:
        assert (counts == SPLIT_SIZES[key] // 10).all()
    labels = load_digits().target[digits(dataset)]
    np.testing.assert_array_equal(dataset.get_gt_labels(), labels)


def test_both_tests_have_at_least_250_images():
    assert SPLIT_SIZES['clean', 'test'] >= 250
    assert SPLIT_SIZES['field', 'test'] >= 250


def test_clean_images_are_the_scans():
    dataset = DigitsDataset('clean', 'val')
    scans = load_digits().images[digits(dataset)]
    shown = images('clean', 'val')
    assert shown.dtype == np.uint8
    assert shown.shape == (100, 32, 32, 3)
    assert (shown == shown[..., :1]).all()  # grey
    # Each cell of the 8x8 scan is 3.5 pixels wide inside a margin of 2: sample the cells' middles.
    middles = (2 + 3.5 * (np.arange(8) + 0.5)).astype(int)
    sampled = shown[:, middles][:, :, middles, 0].astype(float)
    correlation = np.corrcoef(sampled.ravel(), scans.ravel())[0, 1]
    assert correlation > 0.98


def test_severity_zero_is_the_blend_and_nothing_else():
    """Where the scan is black the photograph shows unchanged; elsewhere |patch - digit|."""
    dataset = DigitsDataset('field', 'val', severity=0)
    photos = load_sample_images().images
    for i in range(3):
        info = dataset.get_data_info(i)
        scan = clean_scan(info['digit']).astype(int)
        matches = [
            (photo, top, left)
            for photo in photos
            for top, left in places_of(info['img'], scan, photo)
        ]
        assert len(matches) == 1
        photo, top, left = matches[0]
        patch = photo[top : top + 32, left : left + 32].astype(int)
        expected = np.where(patch > scan, patch - scan, scan - patch)
        np.testing.assert_array_equal(info['img'], expected)


def clean_scan(digit):
    inner = cv2.resize(load_digits().images[digit] / 16, (28, 28))
    return np.pad(np.rint(inner * 255), 2)[..., None]


def places_of(image, scan, photo):
    """Where in the photo the image's upper margin, which no digit touches, comes from."""
    assert not scan[0].any()
    rows = np.lib.stride_tricks.sliding_window_view(photo, 32, axis=1)  # (H, W', 3, 32)
    equal = (rows == image[0].T).all(axis=(2, 3))
    equal &= np.roll((rows == image[1].T).all(axis=(2, 3)), -1, axis=0)
    return np.argwhere(equal)


def test_the_same_image_every_time_in_every_process(tmp_path):
    code = (
        'import hashlib; from tl_plugin.datasets.digits import DigitsDataset;'
        "d = DigitsDataset('field', 'few', severity=4, seed=7);"
        "images = b''.join(d.get_data_info(i)['img'].tobytes() for i in range(50));"
        'print(hashlib.md5(images).hexdigest())'
    )
    (tmp_path / 'other.py').write_text(code)
    ended, said = run_program(tmp_path / 'other.py')
    here = hashlib.md5(images('field', 'few', severity=4, seed=7).tobytes()).hexdigest()
    assert ended == 0 and said.split()[-1] == here


def test_seed_changes_images_and_no_split():
    first, second = (DigitsDataset('field', 'few', seed=seed) for seed in (0, 1))
    assert digits(first) == digits(second)
    assert (images('field', 'few', seed=0) != images('field', 'few', seed=1)).mean() > 0.5


def test_severity_changes_no_clean_image():
    np.testing.assert_array_equal(
        images('clean', 'val', severity=0), images('clean', 'val', severity=5)
    )


def test_field_images_get_darker_noisier_and_blurrier_with_severity():
    stacks = [images('field', 'val', severity=severity) / 255.0 for severity in range(6)]
    light = [stack.mean() for stack in stacks]
    assert (np.diff(light) < 0).all()
    # Noise: what differs between colour channels from pixel to pixel, relative to the light.
    noise = [high_frequencies(s[..., 0] - s[..., 1]) / s.mean() for s in stacks[1:]]
    assert (np.diff(noise) > 0).all()
    # Blur: edges at a scale above the noise's, relative to the light.
    edges = [edge_strength(stack) / stack.mean() for stack in stacks]
    assert edges[5] < edges[3] < edges[0]


def high_frequencies(stack):
    return np.std(stack - gaussian_filter(stack, sigma=(0, 1, 1)))


def edge_strength(stack):
    smooth = gaussian_filter(stack.mean(axis=-1), sigma=(0, 1, 1))
    return np.abs(np.diff(smooth, axis=1)).mean()


def test_images_reach_a_model_through_a_stock_dataloader():
    pipeline = [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    config = dict(
        batch_size=25,
        num_workers=1,
        dataset=dict(type='DigitsDataset', quality='field', split='few', pipeline=pipeline),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(config)
    batches = list(loader)
    assert [tuple(batch['inputs'].shape) for batch in batches] == [(25, 3, 32, 32)] * 2
    assert batches[0]['inputs'].dtype == torch.uint8
    labels = [int(sample.gt_label) for batch in batches for sample in batch['data_samples']]
    assert labels == loader.dataset.get_gt_labels().tolist()


def test_a_pipeline_that_writes_into_an_image_leaves_the_next_epoch_alone():
    class Blacken:
        def __call__(self, results):
            results['img'][:] = 0
            return results

    spoiled = DigitsDataset('field', 'few', pipeline=[Blacken()], serialize_data=False)
    before = images('field', 'few')
    assert not spoiled[0]['img'].any()
    np.testing.assert_array_equal(images('field', 'few'), before)


@pytest.mark.slow  # a time, which a busy machine misses
def test_all_splits_build_in_a_second():
    render.cache_clear()
    load_digits(), load_sample_images()  # the import of scikit-learn isn't ours
    start = time.process_time()
    for quality, split in SPLIT_SIZES:
        DigitsDataset(quality, split)
    assert time.process_time() - start < 2  # half a second where nothing else runs


def test_registered_with_classes():
    dataset = DATASETS.build(dict(type='DigitsDataset', quality='field', split='few'))
    assert list(dataset.CLASSES) == [str(digit) for digit in range(10)]
    assert 'Severity' in repr(dataset)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(quality='dirty'), r"qualities \['clean', 'field'\], got 'dirty'"),
        (dict(quality='clean', split='few'), r"splits \['test', 'train', 'val'\], got split='few'"),
        (dict(quality='field', split='target'), r"\['few', 'test', 'train', 'val'\]"),
        (dict(quality='field', severity=6), 'severity must be an integer from 0'),
    ],
)
def test_wrong_use_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataset(**kwargs)


@pytest.fixture
def image():
    return np.random.default_rng(0).random((32, 48, 3), dtype=np.float32)


def test_degrade_leaves_its_input_alone_and_follows_its_generator(image):
    before = image.copy()
    first, again, other = (degrade(image, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    assert first.shape == image.shape
    assert first.min() >= 0
    assert first.max() <= 1


def test_severity_zero_is_a_copy(image):
    result = degrade(image, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(result, image)
    assert result is not image


def test_every_condition_worsens_with_severity():
    table = np.array([CONDITIONS[severity] for severity in sorted(CONDITIONS)])
    assert (np.diff(table, axis=0) > 0).all()


@pytest.mark.parametrize('severity', [-1, 6, 2.5, '3', None, True])
def test_wrong_severity_is_named(image, severity):
    with pytest.raises(ValueError, match=r'from 0 .* to 5'):
        degrade(image, severity, np.random.default_rng(0))
