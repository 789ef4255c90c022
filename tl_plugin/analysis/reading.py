"""Read any file as an image, or name its fault; no file raises."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

#: Larger images are not decoded: a file of a few kilobytes can claim to be terabytes of pixels.
MAX_PIXELS = 100_000_000
TINY = 16

#: Faults that leave no image to read.
UNREADABLE = {
    'missing': 'there is no such file',
    'not_a_file': 'a folder, a pipe or a device, not a file',
    'forbidden': 'may not be read by this user',
    'empty': 'has no content at all',
    'not_an_image': 'its content is no image of a known format, whatever its name says',
    'truncated': 'ends before the image does',
    'corrupt': 'is damaged inside',
    'too_large': f'has more than {MAX_PIXELS // 1_000_000} million pixels, and was not opened',
    'crashed_reader': 'ended the process that tried to read it',
}
#: Oddities: the image is read, but perhaps not as it was meant.
ODD = {
    'misnamed': 'its name says another format than its content',
    'sixteen_bit': 'has 16 bits a channel; the lower ones are lost',
    'float': 'has fractional values; those outside 0 to 255 are lost',
    'grey': 'has no colour',
    'palette': 'has a palette of at most 256 colours',
    'cmyk': 'has colours made for printing, which look different when shown',
    'transparent': 'has transparent parts, which become opaque',
    'animated': 'has several frames, of which the first is taken',
    'turned': 'is to be turned before it is shown, by its EXIF data',
    'tiny': f'is smaller than {TINY} pixels on a side',
    'plain': 'is one plain colour',
    'foreign': 'is of a format that the reader of training (OpenCV) does not know; training leaves '
    'it out',
    'odd_name': 'has a line break, a space at its end or bytes that are no text in its name; lists '
    'of images cannot hold it, so that training leaves it out',
}
FAULTS = {**UNREADABLE, **ODD}

# Formats that OpenCV, and so mmcv, always reads. Others are tried.
_READ_IN_TRAINING = ('JPEG', 'MPO', 'PNG', 'BMP')
# Formats that go under several extensions, as Pillow names them.
_SAME = {'MPO': 'JPEG', 'APNG': 'PNG'}


class Reading(NamedTuple):
    """The image in a file, and its faults.

    Args:
        image: RGB ``(H, W, 3)``, uint8; None if the file is unreadable.
        faults: Keys of :data:`FAULTS`: one of :data:`UNREADABLE` alone, or any of :data:`ODD`.
        detail: The decoder's error, '' if none.
        format: As Pillow names it, '' if unknown.
        num_bytes: Size of the file.
    """

    image: np.ndarray | None
    faults: tuple[str, ...] = ()
    detail: str = ''
    format: str = ''
    num_bytes: int = 0


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Reading:
    """Read a file as an RGB image, upright and with 8 bits a channel.

    Args:
        path: The file.
        max_pixels: Images with more aren't decoded. Defaults to 100 million.

    Returns:
        A :class:`Reading`; no file raises.
    """
    path = str(path)
    fault, size = _file_fault(path)
    if fault:
        return Reading(None, (fault,), num_bytes=size)
    with warnings.catch_warnings():
        # What Pillow warns about becomes a fault here.
        warnings.simplefilter('ignore')
        return _decode(path, size, max_pixels)


def _file_fault(path: str) -> tuple[str, int]:
    try:
        found = os.stat(path)
    except PermissionError:
        return 'forbidden', 0
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return 'missing', 0
    if not stat.S_ISREG(found.st_mode):
        return 'not_a_file', 0
    if found.st_size == 0:
        return 'empty', 0
    return ('', found.st_size) if os.access(path, os.R_OK) else ('forbidden', found.st_size)


def _decode(path: str, size: int, max_pixels: int) -> Reading:
    from PIL import Image, UnidentifiedImageError

    kind = ''
    try:
        with Image.open(path) as picture:
            kind = picture.format or ''
            if picture.width * picture.height > max_pixels:
                detail = f'{picture.width} x {picture.height} pixels'
                return Reading(None, ('too_large',), detail, kind, size)
            odd = _oddities(picture, path)
            image = _to_rgb(picture, 'sixteen_bit' in odd)
        if kind not in _READ_IN_TRAINING and cv2.imread(path) is None:
            odd.append('foreign')
    except (Image.DecompressionBombError, MemoryError) as error:
        return Reading(None, ('too_large',), str(error), kind, size)
    except UnidentifiedImageError:
        fault = 'corrupt' if _signature(path) else 'not_an_image'
        return Reading(None, (fault,), '', _signature(path), size)
    # Decoders raise anything on damaged data: SyntaxError, struct.error, zlib.error, IndexError.
    except Exception as error:
        fault = 'truncated' if _ends_early(path, kind, error) else 'corrupt'
        return Reading(None, (fault,), f'{type(error).__name__}: {error}', kind, size)
    return Reading(image, (*odd, *oddities_of_pixels(image)), '', kind, size)


def listable(path: str) -> bool:
    r"""Return whether a list of files, one a line, can hold a name.

    >>> listable('a file é.jpg'), listable('two\nlines.jpg'), listable('latin-1 \udce9.jpg')
    (True, False, False)
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not {'\n', '\r'} & set(path) and path == path.strip()


def oddities_of_pixels(image: np.ndarray) -> tuple[str, ...]:
    """Return the keys of :data:`ODD` that the pixels alone show."""
    found = ['tiny'] if min(image.shape[:2]) < TINY else []
    # Its first row first: nearly every image differs there, and need not be compared as a whole.
    if (image[0] == image[0, 0]).all() and (image == image[0, 0]).all():
        found.append('plain')
    return tuple(found)


def _oddities(picture, path: str) -> list[str]:
    from PIL import Image

    mode = picture.mode
    expected = Image.registered_extensions().get(Path(path).suffix.lower())
    found = {
        'misnamed': _SAME.get(expected, expected) != _SAME.get(picture.format, picture.format),
        'odd_name': not listable(path),
        'sixteen_bit': _bits(picture, path) == 16,
        'float': mode == 'F',
        'grey': mode in ('1', 'L', 'LA', 'La', 'I', 'F') or mode.startswith('I;16'),
        'palette': mode in ('P', 'PA'),
        'cmyk': mode == 'CMYK',
        'transparent': mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in picture.info,
        'animated': getattr(picture, 'n_frames', 1) > 1 and picture.format != 'MPO',
        'turned': picture.getexif().get(0x0112, 1) != 1,
    }
    return [kind for kind, present in found.items() if present]


def _bits(picture, path: str) -> int:
    """Return the bits a channel; Pillow itself takes 16-bit colour PNGs for 8-bit ones."""
    if picture.format == 'PNG':
        with open(path, 'rb') as file:
            return file.read(25)[24]
    if picture.format == 'TIFF':
        return max(picture.tag_v2.get(258, (8,)))
    return 16 if picture.mode.startswith('I') else 8


def _to_rgb(picture, sixteen_bit: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith('I') or picture.mode == 'F':
        # As OpenCV does it for mmcv: the upper byte of 16 bits. Pillow would clip at 255.
        values = np.asarray(picture)
        if sixteen_bit and picture.mode != 'F':
            values = values // 256
        picture = Image.fromarray(np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8))
    elif picture.mode == 'P' and 'transparency' in picture.info:
        picture = picture.convert('RGBA')
    return np.array(picture.convert('RGB'))


# First bytes of files of the common formats.
_SIGNATURES = {
    b'\xff\xd8\xff': 'JPEG',
    b'\x89PNG\r\n\x1a\n': 'PNG',
    b'GIF8': 'GIF',
    b'BM': 'BMP',
    b'II*\x00': 'TIFF',
    b'MM\x00*': 'TIFF',
    b'RIFF': 'WEBP',
}
# Last bytes of whole files of these formats.
_ENDS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND', 'GIF': b'\x3b'}


def _signature(path: str) -> str:
    with open(path, 'rb') as file:
        start = file.read(8)
    return next((kind for begin, kind in _SIGNATURES.items() if start.startswith(begin)), '')


def _ends_early(path: str, kind: str, error: Exception) -> bool:
    if isinstance(error, EOFError) or 'truncated' in str(error).lower():
        return True
    with open(path, 'rb') as file:
        file.seek(max(os.path.getsize(path) - 64, 0))
        return _ENDS.get(kind, b'') not in file.read()
