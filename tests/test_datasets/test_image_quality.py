"""Quality statistics against known degradations, scikit-image and the papers' formulas."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, cat
from skimage.measure import blur_effect
from skimage.restoration import estimate_sigma

from tl_plugin.datasets.image_quality import STATISTICS, WINDOW, measure_quality, perceptual_blur

PHOTOS = [astronaut()[::3, ::3].copy(), cat()[::2, ::2].copy()]


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return np.array(Image.open(file))


def noisy(image, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def mean_of(name, change):
    return np.mean([measure_quality(change(photo))[name] for photo in PHOTOS])


@pytest.mark.parametrize('sigma', [0.1, 1, 3])
@pytest.mark.parametrize('photo', PHOTOS)
def test_blur_is_that_of_scikit_image(photo, sigma):
    grey = cv2.cvtColor(cv2.GaussianBlur(photo, (0, 0), sigma), cv2.COLOR_RGB2GRAY)
    assert perceptual_blur(grey) == pytest.approx(blur_effect(grey), abs=1e-6)


@pytest.mark.parametrize('sigma', [4, 10, 25])
def test_known_noise_is_found(sigma):
    grey = np.full((200, 200), 128, dtype=np.uint8)
    assert measure_quality(noisy(grey, sigma))['noise'] == pytest.approx(sigma, rel=0.03)
    # On a photograph its own texture comes on top.
    for photo in PHOTOS:
        image = noisy(photo // 2 + 60, sigma)
        assert measure_quality(image)['noise'] == pytest.approx(sigma, abs=3)
        wavelets = estimate_sigma(image, channel_axis=-1, average_sigmas=True)
        assert measure_quality(image)['noise'] == pytest.approx(wavelets, abs=2)


def test_more_of_a_corruption_is_a_worse_value():
    def rises(name, changes):
        values = [mean_of(name, change) for change in changes]
        return all(first < second for first, second in zip(values, values[1:]))

    blurs = [lambda x, s=s: cv2.GaussianBlur(x, (0, 0), s) for s in (0.5, 1, 2, 4)]
    assert rises('blur', blurs) and rises('sharpness', blurs[::-1])
    assert rises('blockiness', [lambda x, q=q: jpeg(x, q) for q in (90, 50, 20, 10, 5)])
    dark = [lambda x, d=d: (x * d).astype(np.uint8) for d in (0.1, 0.3, 0.6, 1)]
    assert rises('brightness', dark) and rises('contrast', dark)
    assert rises('clipped_dark', dark[::-1])
    casts = [lambda x, c=c: (x * np.array([1, 1, 1 - c])).astype(np.uint8) for c in (0.2, 0.5, 0.8)]
    assert rises('color_cast', casts)
    greys = [
        lambda x, g=g: cv2.addWeighted(
            x, g, x.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8), 1 - g, 0
        )
        for g in (0, 0.4, 1)
    ]
    assert rises('saturation', greys) and rises('colorfulness', greys)


def test_each_corruption_moves_its_own_statistic_and_not_its_neighbours():
    plain = {name: mean_of(name, lambda x: x) for name in STATISTICS}
    assert mean_of('blur', lambda x: (x * 0.5).astype(np.uint8)) == pytest.approx(
        plain['blur'], abs=0.02
    )
    assert mean_of('noise', lambda x: cv2.GaussianBlur(x, (0, 0), 2)) < plain['noise']
    assert mean_of('blockiness', lambda x: noisy(x, 20)) == pytest.approx(1, abs=0.05)


def test_jpeg_blocks_have_the_published_ratio():
    """Blocks of plain grey that differ by 10: steps at the edges alone."""
    blocks = np.kron(np.indices((6, 6)).sum(0) % 2 * 10 + 100, np.ones((8, 8))).astype(np.uint8)
    assert measure_quality(blocks)['blockiness'] == pytest.approx((10 + 0.01) / 0.01)
    assert measure_quality(np.full((64, 64), 9, np.uint8))['blockiness'] == 1


def test_formulas():
    image = PHOTOS[0]
    found = measure_quality(image)
    grey = image @ [0.299, 0.587, 0.114]
    red, green, blue = np.moveaxis(image.astype(float), 2, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    colorfulness = np.sqrt(red_green.var() + yellow_blue.var()) + 0.3 * np.sqrt(
        red_green.mean() ** 2 + yellow_blue.mean() ** 2
    )
    assert found['brightness'] == pytest.approx(grey.mean() / 255, abs=1e-4)
    assert found['contrast'] == pytest.approx(grey.std() / 255, abs=1e-4)
    assert found['colorfulness'] == pytest.approx(colorfulness)
    assert found['saturation'] == pytest.approx(
        np.array(Image.fromarray(image).convert('HSV'))[:, :, 1].mean() / 255, abs=0.005
    )
    assert found['clipped_dark'] == pytest.approx((grey <= 3).mean(), abs=1e-3)
    laplacian = cv2.filter2D(
        grey.astype(np.float32), -1, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)
    )
    assert found['sharpness'] == pytest.approx(laplacian.std(), rel=1e-3)


def test_dead_pixels_are_counted_and_edges_are_not():
    image = cv2.GaussianBlur(PHOTOS[0] // 2 + 60, (0, 0), 1)
    assert measure_quality(image)['dead_pixels'] == 0
    rng = np.random.default_rng(0)
    places = rng.choice(image[:, :, 0].size, 50, replace=False)
    image.reshape(-1, 3)[places] = rng.choice([0, 255], (50, 1))
    assert measure_quality(image)['dead_pixels'] == pytest.approx(50 / image[:, :, 0].size, rel=0.1)


@pytest.mark.parametrize('shape', [(1, 1), (2, 3), (5, 4, 3), (1, 700), (9, 9, 1), (15, 40, 3)])
@pytest.mark.parametrize('value', [0, 200, 255, None])
def test_tiny_and_plain_images_have_finite_values(shape, value):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if value is not None:
        image[:] = value
    found = measure_quality(image)
    assert list(found) == list(STATISTICS)
    assert np.isfinite(list(found.values())).all()


def test_a_huge_image_is_measured_in_part_and_comes_out_the_same():
    tile = PHOTOS[0][:168, :168]
    huge = np.tile(tile, (20, 14, 1))
    part = measure_quality(huge[:WINDOW, :WINDOW])
    found = measure_quality(huge)
    assert found['resolution'] == pytest.approx((20 * 14) ** 0.5 * 168)
    for name in ('sharpness', 'blur', 'noise', 'brightness', 'contrast', 'colorfulness'):
        assert found[name] == pytest.approx(part[name], rel=0.05), name


@pytest.mark.parametrize(
    ('image', 'error', 'message'),
    [
        (np.zeros((4, 4, 3)), TypeError, 'got float64'),
        ('photo.jpg', TypeError, 'got str'),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r'got \(4, 4, 4\)'),
        (np.zeros((0, 4), np.uint8), ValueError, r'got \(0, 4\)'),
    ],
)
def test_anything_else_is_refused(image, error, message):
    with pytest.raises(error, match=message):
        measure_quality(image)
