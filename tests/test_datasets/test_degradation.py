import numpy as np
import pytest
from scipy.ndimage import convolve1d

from tl_plugin.datasets.degradation import (
    CONDITIONS,
    degrade,
    gaussian_blur,
    low_light,
    occlude,
    sensor_noise,
)


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


def test_low_light_takes_its_share(image):
    np.testing.assert_allclose(low_light(image, 0.25), 0.75 * image)
    assert not low_light(image, 1).any()


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


@pytest.mark.parametrize('function', [low_light, gaussian_blur])
def test_zero_strength_changes_nothing(image, function):
    np.testing.assert_array_equal(function(image, 0), image)


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
