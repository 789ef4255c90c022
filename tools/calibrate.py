"""Measure how often a model is right when it is so sure, and write it beside its checkpoint."""

from __future__ import annotations

import sys
from argparse import Namespace

from arguments import Parser, add_config_arguments, count, seed

from tl_plugin.launch.mistakes import run_main


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='tools/predict.py reads what this writes. Nothing is fitted on target labels.',
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--target',
        nargs='+',
        metavar='IMAGES',
        help='unlabelled field images: folders, globs, lists or tables. The validation images of '
        'the source are degraded until their quality is that of these',
    )
    parser.add_argument(
        '--max-images', type=count, default=3000, help='of each domain (default: 3000)'
    )
    parser.add_argument('--out', help='by default NAME.calibration.json beside the checkpoint')
    parser.add_argument('--seed', type=seed, default=0)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    from mmengine.logging import MMLogger

    from tl_plugin.apis import calibrate
    from tl_plugin.launch.configs import load_config

    MMLogger.get_instance('calibrate', log_level='WARNING')
    found = calibrate(
        load_config(args.config, args.strategy, args.cfg_options),
        args.checkpoint,
        args.target,
        args.max_images,
        args.strategy,
        args.out,
        args.seed,
    )
    sys.stdout.reconfigure(errors='backslashreplace')
    one = found.calibration
    print(f'Fitted on {one.images} images: {one.fitted_on}; {one.accuracy:.1%} of them are right.')
    print(f'Temperature: {one.temperature:.3f}')
    print(f'{one.errors_in_words().capitalize()}')
    print(f'Classwise: {one.classwise_before:.2%} before, {one.classwise_after:.2%} after')
    for note in found.notes:
        print(f'Note: {note}')
    print(f'Written: {found.path}')


if __name__ == '__main__':
    run_main(main)
