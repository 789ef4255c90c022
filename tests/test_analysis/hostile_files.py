"""Files that a folder of images may hold, with the fault that each has."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Later versions of OpenCV read GIF.
_GIF = () if cv2.haveImageWriter('a.gif') else ('foreign',)
#: File -> faults that reading it must name, and no others.
FAULTS = {
    'good.jpg': (),
    'good.png': (),
    'UPPER.JPG': (),
    'a name with spaces é.webp': (),
    'empty.jpg': ('empty',),
    'cut.jpg': ('truncated',),
    'cut.png': ('truncated',),
    'header_only.png': ('truncated',),
    'damaged.png': ('corrupt',),
    'text.png': ('not_an_image',),
    'bomb.png': ('too_large',),
    'huge.png': ('too_large',),
    'folder.jpg': ('not_a_file',),
    'pipe.jpg': ('not_a_file',),
    'nowhere.jpg': ('missing',),
    'really_a_png.jpg': ('misnamed',),
    'no_extension': ('misnamed',),
    'grey16.png': ('sixteen_bit', 'grey'),
    'colour16.png': ('sixteen_bit',),
    'float.tif': ('float', 'grey', 'foreign'),
    'grey.jpg': ('grey',),
    'palette.png': ('palette',),
    'cmyk.jpg': ('cmyk',),
    'alpha.png': ('transparent',),
    'animated.gif': ('palette', 'animated', *_GIF),
    'fax.pcx': ('foreign',),
    'turned.jpg': ('turned',),
    'tiny.png': ('tiny',),
    'plain.png': ('plain',),
    'text.jpg': ('not_an_image',),
    'huge.jpg': ('too_large',),
    "it's 写真 (1) & more.jpg": (),
    '<img src=x onerror=alert(1)> "quoted".jpg': ('not_an_image',),
    'two\nlines.png': ('odd_name',),
    'latin-1 \udce9.png': ('odd_name',),
    '\x1b[2Jclears a terminal.png': ('palette',),
}
SIZE = (64, 80)


def photo(seed: int = 0) -> np.ndarray:
    """A smooth picture of random colours, RGB."""
    noise = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def write_hostile_files(folder: Path) -> np.ndarray:
    """Write every file of :data:`FAULTS` that this machine allows; returns the picture in most."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = photo()
    picture = Image.fromarray(pixels)
    for name in (
        'good.jpg',
        'good.png',
        'UPPER.JPG',
        'a name with spaces é.webp',
        "it's 写真 (1) & more.jpg",
        'two\nlines.png',
        'latin-1 \udce9.png',
    ):
        picture.save(folder / name)
    jpeg, png = ((folder / f'good.{kind}').read_bytes() for kind in ('jpg', 'png'))
    middle = len(png) // 2
    contents = {
        'empty.jpg': b'',
        'cut.jpg': jpeg[: len(jpeg) // 2],
        'cut.png': png[:middle],
        'header_only.png': png[:20],
        'damaged.png': png[:middle] + bytes(40) + png[middle + 40 :],
        'text.png': b'This is no picture.\n' * 40,
        'text.jpg': b'This is no picture.\n' * 40,
        '<img src=x onerror=alert(1)> "quoted".jpg': b'Nor is this.\n',
        'really_a_png.jpg': png,
        'no_extension': png,
        'bomb.png': _claiming(100_000, 100_000),
        'huge.png': _claiming(11_000, 11_000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    _write_modes(folder, pixels, picture)
    (folder / 'folder.jpg').mkdir()
    os.mkfifo(folder / 'pipe.jpg')
    os.symlink('nothing', folder / 'nowhere.jpg')
    return pixels


def _write_modes(folder: Path, pixels: np.ndarray, picture: Image.Image) -> None:
    cv2.imwrite(str(folder / 'grey16.png'), pixels[:, :, 0].astype(np.uint16) * 256)
    cv2.imwrite(str(folder / 'colour16.png'), pixels[:, :, ::-1].astype(np.uint16) * 256)
    Image.fromarray(pixels[:, :, 0].astype(np.float32)).save(folder / 'float.tif')
    for name, mode in (
        ('grey.jpg', 'L'),
        ('palette.png', 'P'),
        ('cmyk.jpg', 'CMYK'),
        ('\x1b[2Jclears a terminal.png', 'P'),
    ):
        picture.convert(mode).save(folder / name)
    picture.save(folder / 'fax.pcx')
    see_through = picture.copy()
    see_through.putalpha(100)
    see_through.save(folder / 'alpha.png')
    turned = picture.rotate(180)
    picture.save(folder / 'animated.gif', save_all=True, append_images=[turned])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    picture.save(folder / 'turned.jpg', exif=exif)
    Image.fromarray(pixels[:5, :5]).save(folder / 'tiny.png')
    Image.new('RGB', SIZE, (9, 9, 9)).save(folder / 'plain.png')
    # A whole image, unlike those that only claim to be huge.
    Image.new('L', (12_000, 9_000), 128).save(folder / 'huge.jpg')


def _claiming(width: int, height: int) -> bytes:
    """A PNG of some bytes that claims to be a huge image."""

    def chunk(kind, data):
        check = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + check

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
    )
