"""How long does a check of labels take, beside the features?

    python tools/benchmarks/check_labels_time.py --out work_dirs/check_labels_time.json

Ten thousand images of 128 pixels a side and seven classes, with features of 1,280 numbers, a tenth
of the labels wrong. Seconds are those that the processor worked, in one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import harness
import numpy as np

CLASSES, WIDTH, SIDE = 7, 1280, 128


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--images', type=int, default=10_000)
    parser.add_argument('--limit', type=float, default=180.0, help='seconds to compare with')
    harness.add_out(parser)
    return parser.parse_args()


def write_images(folder, labels, rng):
    """Write JPEG files of blurred noise, one folder a class."""
    import cv2

    for number, label in enumerate(labels):
        place = folder / f'class_{label}'
        place.mkdir(exist_ok=True)
        small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(place / f'{number}.jpg'), image)


def main():
    """Time each part."""
    args = parse_args()
    from tl_plugin.analysis.duplicates import find_duplicates
    from tl_plugin.analysis.label_check import check_labels
    from tl_plugin.analysis.label_report import write_label_report
    from tl_plugin.analysis.scan import scan
    from tl_plugin.intake.any_data import read_data

    rng = np.random.default_rng(0)
    true = rng.integers(0, CLASSES, args.images)
    given = np.where(rng.random(args.images) < 0.1, (true + 1) % CLASSES, true)
    centres = 0.06 * rng.normal(size=(CLASSES, WIDTH))
    noise = np.abs(rng.normal(size=(args.images, WIDTH)))
    seconds = {}

    def timed(what, function, *arguments, **options):
        start = time.process_time()
        found = function(*arguments, **options)
        seconds[what] = time.process_time() - start
        return found

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, given, rng)
        domain = read_data(folder)
        numbers = [int(Path(item.name).stem) for item in domain.items]
        features = (centres[true] + noise)[numbers].astype(np.float32)
        records = timed('reading and hashing', scan, domain.items, processes=1)
        names = [''] * len(records)
        copies = timed('copies', find_duplicates, domain.items, names, records)
        report = timed('judges', check_labels, 'benchmark', domain.items, features, copies)
        timed('table and page', write_label_report, report, domain, folder / 'report')
    seconds['all of it'] = sum(seconds.values())
    lines = [
        harness.line(f'{args.images:,} images: {what}', value, args.limit, unit='s', scale=1)
        for what, value in seconds.items()
    ]
    harness.write(dict(what=__doc__.splitlines()[0], lines=lines), args)


if __name__ == '__main__':
    main()
