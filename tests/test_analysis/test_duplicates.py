"""Copies are found however they were changed, and different images aren't."""

import io
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.sparse.csgraph import connected_components
from skimage.data import astronaut, cat, chelsea, coffee

from tl_plugin.analysis.duplicates import (
    CORRELATION,
    HASH_DISTANCE,
    _join_similar,
    find_duplicates,
)
from tl_plugin.analysis.scan import scan_image
from tl_plugin.intake.images import ImageItem

PICTURES = [image[::2, ::2].copy() for image in (astronaut(), coffee(), chelsea()[:, 200:])]


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return np.array(Image.open(file))


CHANGES = dict(
    compressed=lambda x: jpeg(x, 10),
    smaller=lambda x: cv2.resize(x, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA),
    larger=lambda x: cv2.resize(x, None, fx=2, fy=2),
    darker=lambda x: x // 2,
    grey=lambda x: np.repeat(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2),
    noisy=lambda x: np.clip(x + np.random.default_rng(0).normal(0, 12, x.shape), 0, 255).astype(
        np.uint8
    ),
)


def groups(images, domains=None, splits=None, labels=None):
    splits, labels = splits or [''] * len(images), labels or [None] * len(images)
    items = [
        ImageItem(str(number), label, split, image)
        for number, (image, label, split) in enumerate(zip(images, labels, splits))
    ]
    records = [scan_image(item) for item in items]
    return find_duplicates(items, domains or ['source'] * len(images), records)


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_copy_is_near_and_not_exact(change):
    found = groups([*PICTURES, CHANGES[change](PICTURES[1])])
    assert [(group.names, group.exact) for group in found] == [(('1', '3'), False)]


def test_equal_pixels_are_exact():
    (group,) = groups([PICTURES[0], PICTURES[1], PICTURES[0].copy()])
    assert group.names == ('0', '2') and group.exact


def test_different_images_and_plain_ones_are_no_copies():
    plain = [np.full((40, 40, 3), value, np.uint8) for value in (9, 9, 200)]
    assert groups([*PICTURES, cat()[::2, ::2], *plain]) == []


def test_what_copies_do_to_splits_domains_and_labels():
    copy = PICTURES[0]
    (group,) = groups([copy, copy, copy], splits=['train', 'train', 'train'])
    assert not (group.leaks or group.crosses_domains or group.contradicts)
    (group,) = groups([copy, copy], splits=['train', 'test'], labels=['a', 'b'])
    assert group.leaks and group.contradicts
    (group,) = groups([copy, copy], ['source', 'target'], splits=['train', 'test'])
    assert group.crosses_domains and not group.leaks


def test_a_chain_is_one_group():
    image = PICTURES[0]
    (group,) = groups([image, CHANGES['smaller'](image), image.copy(), PICTURES[1]])
    assert group.names == ('0', '1', '2') and not group.exact


def test_too_few_images():
    assert groups([]) == groups(PICTURES[:1]) == []


def test_many_copies_are_one_group_in_little_memory():
    """Frames of a camera that nothing moves before: all pairs of them would take gigabytes."""
    record = scan_image(ImageItem('0', pixels=PICTURES[0]))
    count = 3000
    records = [record._replace(digest=str(number)) for number in range(count)]
    items = [ImageItem(str(number)) for number in range(count)]
    other = scan_image(ImageItem('other', pixels=PICTURES[1]))
    tracemalloc.start()
    (group,) = find_duplicates(
        [*items, ImageItem('other')], ['source'] * (count + 1), [*records, other]
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(group.names) == count and not group.exact
    assert peak < 200e6


@pytest.mark.parametrize('burst', [0, 60])
def test_all_pairs_are_found_without_comparing_all(burst):
    random = np.random.default_rng(0)
    waves = random.normal(size=(300, 16, 16)) / (1 + np.add.outer(*[np.arange(16)] * 2))
    smooth = idctn(waves, axes=(1, 2)).reshape(300, -1)
    smooth = 255 * (smooth - smooth.min(1)[:, None]) / np.ptp(smooth, axis=1)[:, None]
    smooth[200:] = smooth[:100] + random.uniform(-14, 14, (100, 256))  # about half are near enough
    smooth[100 : 100 + burst] = smooth[100] + random.uniform(-8, 8, (burst, 256))
    pixels = np.clip(smooth, 0, 255).astype(np.uint8)
    low = dctn(pixels.reshape(-1, 16, 16).astype(float), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    found = _join_similar(np.packbits(bits, axis=1), pixels)

    near = (bits[:, None] != bits).sum(2) <= HASH_DISTANCE
    near &= np.corrcoef(pixels) >= CORRELATION
    expected = connected_components(near, directed=False)[1]
    assert 20 < len(expected) - len(set(expected)) < 200
    assert len({*zip(found, expected)}) == len(set(found)) == len(set(expected))
