"""Write a field-like copy of a curated data set: blurred, dark, noisy, or with wrong labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arguments import count, seed

from tl_plugin.launch.mistakes import run_main


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='With --held-out, OUT/source holds the other images as they are: a source and a '
        'target that share no image. With --label-noise images are corrupted only if '
        '--corruptions or --severity say so, and the true labels are in OUT.truth.csv, which no '
        'other tool reads.',
    )
    parser.add_argument('data', help='folder, annotation file or mmpretrain config')
    parser.add_argument('out', type=Path, help='new folder')
    parser.add_argument('--corruptions', nargs='+', help='by default all that DegradeQuality has')
    parser.add_argument('--num-corruptions', type=count, default=2, help='that each image gets')
    parser.add_argument('--severity', type=float, help='0 to 5; by default mixed, 1 to 5 by image')
    parser.add_argument(
        '--held-out', type=float, metavar='SHARE', help='degrade this share of each class alone'
    )
    parser.add_argument(
        '--label-noise', type=float, metavar='SHARE', help='give this share of images wrong labels'
    )
    parser.add_argument(
        '--kind',
        choices=('symmetric', 'pairs', 'instance'),
        help='of wrong labels: any other class (the default), the next class by name, or one that '
        'follows from what the image shows',
    )
    parser.add_argument('--seed', type=seed, default=0, help='draws images, corruptions and labels')
    args = parser.parse_args()
    if args.kind and args.label_noise is None:
        parser.error('--kind is the kind of --label-noise: give its share too, --label-noise 0.2')
    return args


def main():
    args = parse_args()
    from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
    from tl_plugin.intake.any_data import read_data
    from tl_plugin.intake.degraded_copy import (
        copy_files,
        png_names,
        relabelled_paths,
        write_degraded,
    )
    from tl_plugin.intake.images import sample_share
    from tl_plugin.intake.label_noise import write_truth
    from tl_plugin.reporting.progress import progress

    corrupts = args.label_noise is None or args.corruptions or args.severity is not None
    degrade = corrupts and DegradeQuality(
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
    relabelled = {}
    if args.label_noise is not None:
        with progress('choosing labels', len(items)) as advance:
            labels = choose_labels(items, args, advance)
        relabelled['places'] = relabelled_paths(items, labels)
    with progress('writing', len(items)) as advance:
        broken = write_degraded(items, target, degrade or None, advance, **relabelled)
    # Names of files may hold bytes that are no text.
    sys.stdout.reconfigure(errors='backslashreplace')
    for note in data.notes:
        print(f'note: {note}')
    for line in broken:
        print(f'left out: {line}')
    kind = 'degraded images' if degrade else 'images'
    print(f'{target}: {len(items) - len(broken)} {kind}, {len(broken)} left out')
    if relabelled:
        places = relabelled['places']
        names = png_names(places)
        kept = [
            (str(names[place]), item)
            for place, item in places.items()
            if (target / names[place]).is_file()
        ]
        truth = write_truth(target, *zip(*kept))
        wrong = sum(Path(name).parent != Path(item.label or '') for name, item in kept)
        print(f'{wrong} of {len(kept)} labels are wrong, {truth} has the true ones')


def choose_labels(items, args, advance):
    """Choose the labels, by thumbnails where they depend on the images."""
    from tl_plugin.intake.degraded_copy import colour_thumbnails
    from tl_plugin.intake.label_noise import noisy_labels

    kind = args.kind or 'symmetric'
    features = colour_thumbnails(items, advance) if kind == 'instance' else None
    return noisy_labels(items, args.label_noise, kind, features, args.seed)


if __name__ == '__main__':
    run_main(main)
