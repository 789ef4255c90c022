"""The scan in processes finds what one process finds, and survives its readers."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_analysis.hostile_files import FAULTS, photo, write_hostile_files
from tl_plugin.analysis import scan as scan_module
from tl_plugin.analysis.reading import UNREADABLE
from tl_plugin.analysis.scan import CHUNK, scan, scan_image
from tl_plugin.datasets.image_quality import measure_quality
from tl_plugin.intake.images import ImageItem

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile') / 'files'
    write_hostile_files(folder)
    for number in range(3 * CHUNK):
        Image.fromarray(photo(number)).save(folder / f'{number:03}.png')
    return [ImageItem(str(path)) for path in sorted(folder.iterdir())]


@pytest.fixture(scope='module')
def alone(items):
    """What one process finds."""
    return scan(items, 1)


def test_processes_find_what_one_finds_in_order(items, alone):
    counts = []
    together = scan(items, 2, counts.append)
    assert alone == together
    assert sum(counts) == len(items) == 3 * CHUNK + len(FAULTS)
    for item, record in zip(items, together):
        name = os.path.basename(item.name)
        assert record.faults == FAULTS.get(name, ())


def test_a_record_describes_the_image(items):
    (item,) = [item for item in items if item.name.endswith('000.png')]
    record = scan_image(item)
    assert record.quality == measure_quality(photo())
    assert record.format == 'PNG' and len(record.hash) == 8


def test_file_size_counts_for_jpeg_alone(items):
    """A copy saved as PNG is larger, and no better for it."""
    sizes = {
        os.path.basename(item.name): scan_image(item).quality
        for item in items
        if os.path.basename(item.name) in ('good.jpg', 'good.png')
    }
    path = os.path.join(os.path.dirname(items[0].name), 'good.jpg')
    bits = 8 * os.path.getsize(path) / photo()[:, :, 0].size
    assert sizes['good.jpg']['bits_per_pixel'] == bits
    assert 'bits_per_pixel' not in sizes['good.png']


def test_pixels_without_a_file_are_looked_at():
    grey = photo()[:, :, 0]
    for pixels in (grey, grey[:, :, None]):
        record = scan_image(ImageItem('train/0', pixels=pixels))
        assert record.quality['saturation'] == 0 and 'bits_per_pixel' not in record.quality


@dataclass(frozen=True)
class DeadlyItem(ImageItem):
    """Ends the process that opens it, unless that is the one of the tests."""

    @property
    def pixels(self):
        if multiprocessing.parent_process() is not None:
            os._exit(1)
        return None

    @pixels.setter
    def pixels(self, value):
        pass


def test_a_file_that_kills_its_reader_is_named_and_the_others_go_on(items, alone, monkeypatch):
    # Each half of a suspected chunk takes a process of its own.
    monkeypatch.setattr(scan_module, 'CHUNK', 4)
    items, deadly = items[:30], (3, 25)
    given = [
        DeadlyItem(item.name) if number in deadly else item for number, item in enumerate(items)
    ]
    for number, record in enumerate(scan(given, 2)):
        if number in deadly:
            assert record.faults == ('crashed_reader',)
        else:
            assert record == alone[number]


def test_no_images_are_no_records():
    assert scan([]) == []


def test_one_colour_more_changes_the_digest():
    pixels = np.zeros((20, 20, 3), np.uint8)
    other = pixels.copy()
    other[3, 4, 1] = 1
    assert (
        scan_image(ImageItem('a', pixels=pixels)).digest
        != scan_image(ImageItem('a', pixels=other)).digest
    )


@pytest.mark.slow  # imports torch three times
def test_a_script_that_cannot_start_processes_reads_alone(items, tmp_path):
    """Without the guard of ``__main__`` every new process would start the script again."""
    script = tmp_path / 'script.py'
    script.write_text(
        'from tl_plugin.analysis.scan import scan\n'
        'from tl_plugin.intake.images import ImageItem\n'
        f'names = {[item.name for item in items]!r}\n'
        'found = scan([ImageItem(name) for name in names], 2)\n'
        'print(len(found), sum(record.readable for record in found))\n'
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    readable = sum(not set(faults) & set(UNREADABLE) for faults in FAULTS.values()) + 3 * CHUNK
    assert f'{len(items)} {readable}' in done.stdout, done.stderr[-3000:]
