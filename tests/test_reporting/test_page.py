import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from tl_plugin.reporting.page import data_uri, thumbnail


def decode(content):
    return Image.open(io.BytesIO(content))


def test_sample_images_keep_their_colours_and_shrink():
    image = np.zeros((300, 200, 3), dtype=np.uint8)
    image[..., 0] = 200
    shown = decode(thumbnail(image))
    assert shown.format == 'JPEG' and shown.size == (85, 128)
    assert shown.getpixel((40, 60)) == pytest.approx((200, 0, 0), abs=2)


def test_photographs_leave_room_in_the_page():
    """Forty of them, and of any size, are well below the page's 5 MB."""
    content = thumbnail(astronaut())
    assert len(data_uri(content)) < 20_000
    small = cv2.resize(astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(np.asarray(decode(content)).astype(int) - small).mean() < 4


def test_single_pixels_of_small_images_are_kept():
    digit = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    content = thumbnail(digit)
    assert (np.asarray(decode(content)) == digit).all()
    head, encoded = data_uri(content).split(',')
    assert head == 'data:image/png;base64' and base64.b64decode(encoded) == content
