"""Corruptions of a field camera: what each does, how severe, and that a seed repeats it."""

import cv2
import numpy as np
import pytest
from mmpretrain.registry import TRANSFORMS
from scipy.ndimage import convolve1d

from tl_plugin.datasets.degrade_quality import (
    CORRUPTIONS,
    DegradeQuality,
    degrade_image,
    gaussian_blur,
    occlude,
    sensor_noise,
)
from tl_plugin.datasets.image_quality import measure_quality


@pytest.fixture(scope='module')
def photo():
    from sklearn.datasets import load_sample_images

    return cv2.resize(load_sample_images().images[0], (192, 128), interpolation=cv2.INTER_AREA)


def _degraded(image, corruption, severity, seed=0):
    return degrade_image(image, {corruption: severity}, np.random.default_rng(seed))


@pytest.mark.parametrize('corruption', CORRUPTIONS)
class TestEach:
    @pytest.mark.parametrize('shape', [(1, 1), (1, 1, 3), (5, 300, 3), (64, 40), (33, 47, 1)])
    def test_any_size_and_colour(self, corruption, shape):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        before = image.copy()
        found = _degraded(image, corruption, 5)
        assert found.shape == shape and found.dtype == np.uint8
        assert np.array_equal(image, before) and not np.shares_memory(found, image)

    def test_a_higher_severity_takes_more(self, corruption, photo):
        errors = [
            np.mean(
                [
                    np.square(
                        _degraded(photo, corruption, severity, seed).astype(float) - photo
                    ).mean()
                    for seed in range(8)
                ]
            )
            for severity in (0, 0.5, 1, 2, 3, 4, 5)
        ]
        assert errors[0] == 0 and all(np.diff(errors) > 0), errors

    def test_the_generator_decides(self, corruption, photo):
        first, again = (_degraded(photo, corruption, 3) for _ in range(2))
        assert np.array_equal(first, again)
        if corruption in ('occlusion', 'motion', 'color_cast', 'noise', 'dead_pixels'):
            assert not np.array_equal(first, _degraded(photo, corruption, 3, seed=1))


#: Which statistic a corruption moves, and which way: an independent witness.
WITNESSES = {
    'defocus': ('blur', 1),
    'motion': ('blur', 1),
    'blur': ('blur', 1),
    'low_light': ('brightness', -1),
    'color_cast': ('color_cast', 1),
    'noise': ('noise', 1),
    'dead_pixels': ('dead_pixels', 1),
    'jpeg': ('blockiness', 1),
}


@pytest.mark.parametrize('corruption', WITNESSES)
def test_its_statistic_moves_as_it_should(corruption, photo):
    statistic, sign = WITNESSES[corruption]
    values = [
        measure_quality(_degraded(photo, corruption, severity))[statistic] for severity in (0, 2, 5)
    ]
    assert all(np.diff(values) * sign > 0), values


@pytest.fixture
def image():
    return np.random.default_rng(0).random((32, 48, 3), dtype=np.float32)


def test_blur_is_a_convolution_with_a_gaussian(image):
    sigma = 0.9
    taps = np.arange(-4, 5)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2)
    kernel /= kernel.sum()
    expected = convolve1d(convolve1d(image, kernel, axis=0), kernel, axis=1)
    np.testing.assert_allclose(gaussian_blur(image, sigma), expected, atol=1e-3)


def test_noise_has_the_asked_spread():
    grey = np.full((64, 64, 3), 0.5, dtype=np.float32)
    noisy = sensor_noise(grey, 0.08, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.08, rel=0.05)
    assert noisy.mean() == pytest.approx(0.5, abs=0.005)
    loud = sensor_noise(grey, 5.0, np.random.default_rng(0))
    assert loud.min() == 0
    assert loud.max() == 1


def test_occlusion_covers_one_square_of_one_grey(image):
    covered = occlude(image, 0.25, np.random.default_rng(3))
    changed = (covered != image).any(axis=-1)
    rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
    assert len(rows) == len(columns) == 8  # a quarter of the shorter side
    square = covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert len(np.unique(square)) == 1


def test_no_blur_changes_nothing(image):
    np.testing.assert_array_equal(gaussian_blur(image, 0), image)


def test_strengths_are_those_of_the_table():
    assert CORRUPTIONS['occlusion'].strength(1) == 0.12 and CORRUPTIONS['jpeg'].strength(5) == 92
    assert CORRUPTIONS['blur'].strength(2.5) == pytest.approx((1.0 + 1.6) / 2)
    grey = np.full((128, 128), 128, dtype=np.uint8)
    covered = _degraded(grey, 'occlusion', 5, seed=1) != 128
    assert covered.sum() == round(0.45 * 128) ** 2
    assert _degraded(grey, 'noise', 3).std() == pytest.approx(0.07 * 255, rel=0.05)
    dead = np.isin(_degraded(grey, 'dead_pixels', 5), (0, 255)).mean()
    assert dead == pytest.approx(0.04, rel=0.15)
    assert _degraded(grey, 'low_light', 3)[0, 0] == 64


@pytest.mark.parametrize('corruption', ['defocus', 'motion', 'blur'])
def test_lengths_grow_with_the_image(corruption):
    spreads = []
    for side in (128, 384):
        point = np.zeros((side, side), dtype=np.uint8)
        point[
            side // 2 - side // 64 : side // 2 + side // 64,
            side // 2 - side // 64 : side // 2 + side // 64,
        ] = 255
        found = _degraded(point, corruption, 5).astype(float)
        columns = np.arange(side)
        weights = found.sum(0) / found.sum()
        centre = (weights * columns).sum()
        spreads.append(np.sqrt((weights * (columns - centre) ** 2).sum()) / side)
    assert spreads[0] == pytest.approx(spreads[1], rel=0.08)


class TestTransform:
    def test_a_seed_makes_it_a_function_of_the_image(self, photo):
        fixed = TRANSFORMS.build(dict(type='DegradeQuality', seed=3))
        results = [
            dict(img=photo, img_path=path)
            for path in ('/data/train/dog/1.jpg', '/elsewhere/dog/1.jpg', '/data/train/dog/2.jpg')
        ]
        one, copy, two = (fixed(dict(each))['img'] for each in results)
        assert np.array_equal(one, copy) and not np.array_equal(one, two)
        by_index = [fixed(dict(img=photo, sample_idx=index))['img'] for index in (4, 4, 5)]
        assert np.array_equal(*by_index[:2]) and not np.array_equal(*by_index[1:])
        other = DegradeQuality(seed=4)(dict(results[0]))['img']
        assert not np.array_equal(one, other)

    def test_without_a_seed_it_follows_numpys_state(self, photo):
        transform, found = DegradeQuality(corruptions=['noise']), []
        for seed in (0, 0, 1):
            np.random.seed(seed)
            found.append(transform(dict(img=photo))['img'])
        assert np.array_equal(*found[:2]) and not np.array_equal(*found[1:])
        assert not np.array_equal(found[2], transform(dict(img=photo))['img'])

    def test_severities_corruptions_and_counts_are_drawn_as_asked(self):
        rng = np.random.default_rng(0)
        mixed = [DegradeQuality(num_corruptions=(1, 3)).draw(rng) for _ in range(300)]
        assert {len(drawn) for drawn in mixed} == {1, 2, 3}
        assert {name for drawn in mixed for name in drawn} == set(CORRUPTIONS)
        assert {value for drawn in mixed for value in drawn.values()} == {1, 2, 3, 4, 5}
        assert all(len(set(drawn.values())) == 1 for drawn in mixed)  # one severity an image
        own = DegradeQuality(dict(blur=dict(severity=(1, 2)), noise=dict(prob=0.25)), severity=4)
        drawn = [own.draw(rng) for _ in range(400)]
        assert all(1 <= each['blur'] <= 2 for each in drawn)
        noisy = [each['noise'] for each in drawn if 'noise' in each]
        assert set(noisy) == {4} and len(noisy) / 400 == pytest.approx(0.25, abs=0.07)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (dict(corruptions=['glitter']), 'got glitter'),
            (dict(severity=6), 'from 0 to 5'),
            (dict(severity=(3, 2)), 'from 0 to 5'),
            (dict(severity='high'), "or 'mixed', got 'high'"),
            (dict(corruptions=dict(blur=dict(prob=2))), r'in \[0, 1\], got 2'),
            (dict(corruptions=['blur'], num_corruptions=2), 'from 0 to 1'),
        ],
    )
    def test_wrong_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            DegradeQuality(**options)

    def test_what_cannot_be_degraded(self, photo):
        transform = DegradeQuality(seed=0)
        with pytest.raises(TypeError, match='got float64: put it before'):
            transform(dict(img=photo / 255, sample_idx=0))
        with pytest.raises(ValueError, match=r'got \(2, 2, 4\)'):
            transform(dict(img=np.zeros((2, 2, 4), dtype=np.uint8), sample_idx=0))
        with pytest.raises(ValueError, match='neither img_path nor sample_idx'):
            transform(dict(img=photo))
