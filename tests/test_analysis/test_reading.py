"""Every hostile file survives and is named; what is read is what OpenCV reads for mmcv."""

import cv2
import numpy as np
import pytest

from tests.test_analysis.hostile_files import FAULTS, SIZE, write_hostile_files
from tl_plugin.analysis.reading import UNREADABLE, read_image


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile') / 'files'
    write_hostile_files(folder)
    return folder


@pytest.mark.parametrize('name', FAULTS)
def test_each_file_is_read_or_named(folder, name):
    reading = read_image(folder / name)
    assert reading.faults == FAULTS[name]
    unreadable = bool(set(reading.faults) & set(UNREADABLE))
    assert (reading.image is None) == unreadable
    if not unreadable:
        assert reading.image.dtype == np.uint8 and reading.image.shape[2] == 3
        assert reading.num_bytes == (folder / name).stat().st_size


@pytest.mark.parametrize(
    'name',
    [
        'good.png',
        'good.jpg',
        'grey16.png',
        'colour16.png',
        'palette.png',
        'grey.jpg',
        'turned.jpg',
        'alpha.png',
        'really_a_png.jpg',
    ],
)
def test_pixels_are_those_that_mmcv_would_train_on(folder, name):
    expected = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)[:, :, ::-1]
    found = read_image(folder / name).image
    assert found.shape == expected.shape
    # Two decoders of JPEG may round differently.
    assert np.abs(found.astype(int) - expected).max() <= (3 if name.endswith('jpg') else 0)


def test_a_turned_image_stands_upright(folder):
    assert read_image(folder / 'turned.jpg').image.shape[:2] == SIZE[::-1]


def test_any_cut_of_a_file_is_survived(folder, tmp_path):
    """Cut anywhere, and with any byte changed, a file gives an image or a fault."""
    for name in ('good.jpg', 'good.png', 'animated.gif', 'float.tif'):
        content = (folder / name).read_bytes()
        kind = tmp_path / f'cut{name[-4:]}'
        for length in np.linspace(1, len(content) - 1, 40).astype(int):
            kind.write_bytes(content[:length])
            reading = read_image(kind)
            assert reading.image is not None or reading.faults[0] in UNREADABLE
        rng = np.random.default_rng(0)
        for _ in range(60):
            changed = bytearray(content)
            changed[rng.integers(len(changed))] = rng.integers(256)
            kind.write_bytes(bytes(changed))
            reading = read_image(kind)
            assert reading.image is not None or reading.faults[0] in UNREADABLE


def test_the_limit_of_pixels_can_be_set(folder):
    assert read_image(folder / 'good.png', max_pixels=100).faults == ('too_large',)


def test_a_name_that_no_file_can_have():
    assert read_image('a\0b').faults == ('missing',)
