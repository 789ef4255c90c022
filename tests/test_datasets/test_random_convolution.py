import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tl_plugin.datasets import RandomConvolution
from tl_plugin.datasets.random_convolution import convolve


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (17, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize('share', [0.0, 0.4])
@pytest.mark.parametrize('size', [1, 5])
def test_it_is_a_convolution_mixed_with_the_image(size, share, image):
    weight = np.random.default_rng(1).standard_normal((3, 3, size, size))
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double() - 127.5
    padded = F.pad(x, [size // 2] * 4, mode='reflect')
    # He et al.'s initialisation: weights with the deviation 1 / sqrt(inputs of an output).
    y = F.conv2d(padded, torch.from_numpy(weight) / (3 * size * size) ** 0.5)
    y = share * x + (1 - share) * y
    y = (y - y.mean()) / y.std(correction=0) * x.std(correction=0) + 127.5
    expected = y[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(convolve(image, weight, share) - expected).max() < 0.6  # rounded


@pytest.mark.parametrize('shape', [(8, 9), (8, 9, 1), (8, 9, 3)])
def test_grey_and_colour_keep_their_form(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = RandomConvolution(prob=1.0)(dict(img=image))['img']
    assert found.shape == shape and found.dtype == np.uint8
    flat = RandomConvolution(prob=1.0)(dict(img=np.full(shape, 9, np.uint8)))['img']
    assert (flat == 128).all(), 'nothing to filter'


def test_it_changes_so_many_images_and_each_otherwise(image):
    np.random.seed(0)
    found = [RandomConvolution(prob=0.3)(dict(img=image.copy()))['img'] for _ in range(400)]
    changed = [each for each in found if (each != image).any()]
    assert 0.2 < len(changed) / 400 < 0.4
    assert len({each.tobytes() for each in changed}) == len(changed)
    np.random.seed(0)
    again = RandomConvolution(prob=0.3)(dict(img=image.copy()))['img']
    assert (again == found[0]).all()


def test_what_it_refuses(image):
    with pytest.raises(ValueError, match='prob'):
        RandomConvolution(prob=1.5)
    for sizes in ((), (2,), (-3,)):
        with pytest.raises(ValueError, match='odd numbers'):
            RandomConvolution(kernel_sizes=sizes)
    with pytest.raises(TypeError, match='uint8'):
        RandomConvolution(prob=1.0)(dict(img=image / 255))
    assert repr(RandomConvolution()) == 'RandomConvolution(prob=0.5, kernel_sizes=(1, 3, 5, 7))'
