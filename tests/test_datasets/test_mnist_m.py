import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.forked import run_tool
from tl_plugin.datasets import MNISTM, RepeatChannels
from tl_plugin.datasets.mnist_m import blend_into_photographs, load_photographs

TOOL = Path(__file__).parents[2] / 'tools' / 'make_mnist_m.py'


def _digits(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def _photographs(count=3, seed=1, low=0, high=256):
    random = np.random.default_rng(seed)
    return [random.integers(low, high, (40, 50, 3), dtype=np.uint8) for _ in range(count)]


def test_each_image_is_a_patch_minus_its_digit():
    digits, photos = _digits(), _photographs()
    for digit, image in zip(digits, blend_into_photographs(digits, photos, seed=3)):
        # Some patch of some photograph gives exactly this image.
        slide = np.lib.stride_tricks.sliding_window_view
        windows = [slide(photo, (28, 28, 3))[:, :, 0] for photo in photos]
        grey = digit[..., None].astype(int)
        assert any((np.abs(w.astype(int) - grey) == image).all((2, 3, 4)).any() for w in windows)


def test_a_digit_keeps_its_patch_whatever_comes_beside_it():
    digits, photos = _digits(), _photographs()
    whole = blend_into_photographs(digits, photos)
    assert np.array_equal(whole[:2], blend_into_photographs(digits[:2], photos))
    assert not np.array_equal(whole, blend_into_photographs(digits, photos, seed=1))


def test_photographs_that_cannot_serve(tmp_path):
    with pytest.raises(ValueError, match='got none'):
        blend_into_photographs(_digits(), [])
    with pytest.raises(ValueError, match='28 pixels or more a side, got 20'):
        blend_into_photographs(_digits(), [np.zeros((20, 90, 3), np.uint8)])
    (tmp_path / 'read me.txt').touch()
    with pytest.raises(FileNotFoundError, match='no photographs'):
        load_photographs(tmp_path)


def test_photographs_of_all_extensions(tmp_path):
    for name in ('a.JPG', 'b.webp', 'c.tiff', '._d.png'):
        Image.new('RGB', (30, 30)).save(tmp_path / name)
    assert len(load_photographs(tmp_path)) == 3


def _write_idx(path, array):
    header = struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def made(tmp_path):
    mnist, photos = tmp_path / 'mnist', tmp_path / 'photos'
    mnist.mkdir(), photos.mkdir()
    for name, count in (('train', 7), ('t10k', 4)):
        _write_idx(mnist / f'{name}-images-idx3-ubyte', np.zeros((count, 28, 28), np.uint8))
        _write_idx(mnist / f'{name}-labels-idx1-ubyte', (np.arange(count) % 10).astype(np.uint8))
    for index in range(10):  # a photograph is known by its grey
        Image.fromarray(np.full((30, 30, 3), index, np.uint8)).save(photos / f'{index}.png')
    out = tmp_path / 'out'
    code, said = run_tool(TOOL, '--mnist', mnist, '--photographs', photos, '--out', out)
    assert code == 0, said
    return tmp_path / 'out'


def test_the_tool_writes_both_splits_with_photographs_of_their_own(made):
    used = {}
    for split, count in (('train', 7), ('test', 4)):
        data = MNISTM(str(made), split)
        assert len(data) == count and len(data.metainfo['classes']) == 10
        assert [data.get_data_info(i)['gt_label'] for i in range(count)] == list(range(count))
        used[split] = {int(data.get_data_info(i)['img'][0, 0, 0]) for i in range(count)}
        assert data.get_data_info(0)['img'].shape == (28, 28, 3)
    assert used['test'] <= {0, 5} and not used['train'] & {0, 5}
    assert not list(made.glob('*.partial'))


def test_data_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'tools/make_mnist_m\.py --mnist'):
        MNISTM(str(tmp_path))
    with pytest.raises(ValueError, match="'train' and 'test', got 'val'"):
        MNISTM(str(tmp_path), 'val')


@pytest.mark.parametrize('shape', [(28, 28), (28, 28, 1), (28, 28, 3)])
def test_grey_becomes_colour(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = RepeatChannels()(dict(img=image))['img']
    assert out.shape == (28, 28, 3)
    expected = image if image.ndim == 3 else image[..., None]
    assert np.array_equal(out, np.broadcast_to(expected, out.shape))
