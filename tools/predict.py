"""Predict the classes of any images and write a row for each: folders, lists, globs, tables."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace

from arguments import Parser, add_config_arguments, seed

from tl_plugin.launch.cpu import leave_cpu_group
from tl_plugin.launch.mistakes import run_main


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='Run the same command again to go on after it was killed. Several GPUs: torchrun '
        '--nproc-per-node GPUS tools/predict.py ... The column "label" is for a person to fill in; '
        'tools/ladder.py --target-labels takes the table then.',
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'images',
        nargs='+',
        help='folders (at any depth), images, globs, lists of files (.txt) or tables (.csv, .json)',
    )
    parser.add_argument(
        '--out',
        default='predictions.csv',
        help='.csv, .json, .jsonl or .parquet (default: predictions.csv); a summary and a page of '
        'the surest, least sure and strangest images lie beside it',
    )
    parser.add_argument('--top-k', type=int, default=3, help='classes of each image (default: 3)')
    parser.add_argument('--batch-size', type=int, help="by default the config's")
    parser.add_argument(
        '--workers', type=int, help="processes that read images; by default the config's"
    )
    parser.add_argument(
        '--calibration', help='file of tools/calibrate.py; by default the one beside the checkpoint'
    )
    parser.add_argument(
        '--precision',
        type=float,
        default=0.95,
        help='share of right ones among predictions called sure (default: 0.95)',
    )
    parser.add_argument(
        '--coverage',
        type=float,
        default=0.9,
        help='share of prediction sets that hold the true class (default: 0.9)',
    )
    parser.add_argument(
        '--to-label',
        type=int,
        default=0,
        metavar='N',
        help='also write the N images whose labels would teach most',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a finished --out')
    parser.add_argument('--amp', action='store_true', help='predict in mixed precision')
    parser.add_argument('--seed', type=seed, default=0, help='of the choice of images to label')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    from mmengine.dist import is_main_process
    from mmengine.logging import MMLogger

    from tl_plugin.apis import Settings, predict
    from tl_plugin.apis.printing import print_summary
    from tl_plugin.launch.configs import load_config

    MMLogger.get_instance('predict', log_level='WARNING')
    settings = Settings(
        **{item.name: getattr(args, item.name) for item in dataclasses.fields(Settings)}
    )
    cfg = load_config(args.config, args.strategy, args.cfg_options)
    summary = predict(cfg, args.checkpoint, args.images, args.out, settings)
    if is_main_process():
        # Names of files may hold bytes that are no text.
        sys.stdout.reconfigure(errors='backslashreplace')
        print_summary(summary)
    leave_cpu_group()


if __name__ == '__main__':
    run_main(main)
