"""Write a field-like copy of a curated data set: blurred, dark, noisy, partly hidden."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import arguments  # noqa: F401  (finds the package beside a checkout's tools)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='With --held-out, OUT/source holds the other images as they are: a source and a '
        'target that share no image.',
    )
    parser.add_argument('data', help='folder, annotation file or mmpretrain config')
    parser.add_argument('out', type=Path, help='new folder')
    parser.add_argument('--corruptions', nargs='+', help='by default all that DegradeQuality has')
    parser.add_argument('--num-corruptions', type=int, default=2, help='that each image gets')
    parser.add_argument('--severity', type=float, help='0 to 5; by default mixed, 1 to 5 by image')
    parser.add_argument(
        '--held-out', type=float, metavar='SHARE', help='degrade this share of each class alone'
    )
    parser.add_argument('--seed', type=int, default=0, help='draws images and corruptions')
    return parser.parse_args()


def main():
    args = parse_args()
    from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
    from tl_plugin.intake.any_data import read_data
    from tl_plugin.intake.degraded_copy import copy_files, write_degraded
    from tl_plugin.intake.images import sample_share
    from tl_plugin.reporting.progress import progress

    degrade = DegradeQuality(
        corruptions=args.corruptions,
        num_corruptions=min(args.num_corruptions, len(args.corruptions or CORRUPTIONS)),
        severity='mixed' if args.severity is None else args.severity,
        seed=args.seed,
    )
    data = read_data(args.data, every_file=True)
    items = data.items
    target = args.out
    if args.held_out is not None:
        target = args.out / 'target'
        held_out = sample_share(items, args.held_out, args.seed)
        names = {item.name for item in held_out}
        copy_files([item for item in items if item.name not in names], args.out / 'source')
        items = held_out
    with progress('degrading', len(items)) as advance:
        broken = write_degraded(items, target, degrade, advance)
    # Names of files may hold bytes that are no text.
    sys.stdout.reconfigure(errors='backslashreplace')
    for note in data.notes:
        print(f'note: {note}')
    for line in broken:
        print(f'left out: {line}')
    print(f'{target}: {len(items) - len(broken)} degraded images, {len(broken)} left out')


if __name__ == '__main__':
    main()
