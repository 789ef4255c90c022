"""Our corruptions against an independent implementation of ImageNet-C's, at equal strengths."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality

pytest.importorskip(
    'imagecorruptions', reason='the judge is missing: pip install imagecorruptions-imaug'
)
BENCHMARKS = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks'


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__('corruption_judge')
    sys.modules.pop('corruption_judge')


@pytest.fixture
def image():
    """Shapes, edges and texture, 224 pixels, with channels that differ."""
    y, x = np.mgrid[:224, :224] / 224
    waves = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(5 * (x + y))], axis=-1)
    waves[60:120, 80:160] *= -1
    waves += np.random.default_rng(0).uniform(-0.4, 0.4, waves.shape)
    return (127 + 90 * waves).astype(np.uint8)


def severity_of(name: str, strength: float) -> float:
    """The severity at which ours has a strength; lengths of ours are those at 128 pixels."""
    strength *= 128 / 224 if CORRUPTIONS[name].in_pixels else 1
    return float(np.interp(strength, (0.0, *CORRUPTIONS[name].strengths), range(6)))


@pytest.mark.parametrize(
    ('ours', 'strength', 'theirs', 'severity'),
    [
        ('blur', 1.0, 'gaussian_blur', 1),
        ('blur', 3.0, 'gaussian_blur', 3),
        ('jpeg', 75.0, 'jpeg_compression', 1),
        ('jpeg', 90.0, 'jpeg_compression', 4),
    ],
)
def test_equal_strengths_give_equal_images(judge, image, ours, strength, theirs, severity):
    given = dict(img=image, img_path='dog/1.jpg')
    own = DegradeQuality([ours], severity_of(ours, strength), seed=0)(dict(given))['img']
    other = judge.Judge(theirs, severity)(dict(given))['img']
    cost = np.abs(own.astype(float) - image).mean()
    # The judge cuts off what is below a level, which is half a level on average.
    assert np.abs(own.astype(float) - other).mean() < 0.6 < 0.2 * cost


def test_the_judge_is_a_function_of_the_image(judge, image):
    given = dict(img=image, img_path='dog/1.jpg')
    first, again = (judge.theirs('gaussian_noise', 3)(dict(given))['img'] for _ in range(2))
    assert (first == again).all() and not (first == image).all()
    other = judge.theirs('gaussian_noise', 3)(dict(given, img_path='dog/2.jpg'))['img']
    assert (first != other).any()
