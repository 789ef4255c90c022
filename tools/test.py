"""Test a checkpoint with any mmpretrain config, with strategies merged over it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from arguments import Parser, add_config_arguments, add_launch_arguments, count, parse
from mmengine.dist import is_main_process
from mmengine.fileio import dump

from tl_plugin.analysis.corruption_curves import (
    allow_corruptions,
    check_corruptions,
    corruptions_path,
    curves_in_words,
    read_curves,
    write_curves,
)
from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.launch.configs import default_work_dir, load_config
from tl_plugin.launch.cpu import leave_cpu_group
from tl_plugin.launch.mistakes import run_main
from tl_plugin.launch.runs import build_runner, prepare_test
from tl_plugin.reliability.files import check_folder


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(description='Test (and evaluate) a model')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    add_launch_arguments(parser)
    parser.add_argument('--out', help='file for the results')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='whether --out holds metrics (.json, .yaml, .pkl) or predictions (.pkl, the default)',
    )
    parser.add_argument('--amp', action='store_true', help='predict in mixed precision')
    parser.add_argument('--show-dir', help='folder for images of predictions')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--interval', type=count, default=1, help='show every n-th image')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that every window stays'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="average over test-time augmentations: the config's tta_pipeline and tta_model if it "
        'has them, otherwise over the image and its mirror image',
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        metavar='NAME',
        help='also test under each corruption at severities 1 to 5 (all, or those named), and '
        'write CHECKPOINT.corruptions.json and a picture beside the checkpoint',
    )
    parser.add_argument(
        '--corruption-baseline',
        metavar='FILE',
        help='.corruptions.json of the model that the mean corruption error is in percent of',
    )
    args = parse(parser)
    if args.corruption_baseline and args.corruptions is None:
        parser.error('--corruption-baseline needs --corruptions')
    if args.corruptions is not None and args.launcher != 'none':
        parser.error('--corruptions is measured by one process: leave --launcher out')
    if args.out is None and args.out_item is not None:
        parser.error('--out-item says what to write, --out says where: give both')
    suffixes = ('.json', '.yaml', '.yml', '.pkl') if args.out_item == 'metrics' else ('.pkl',)
    if args.out is not None and not args.out.endswith(suffixes):
        parser.error(f'--out takes a file that ends in {" or ".join(suffixes)}, got {args.out}')
    return args


def main() -> None:
    """Run the tool."""
    args = parse_args()
    if args.out:
        check_folder(Path(args.out).parent)
    cfg = load_config(args.config, args.strategy, args.cfg_options)
    in_config = cfg.get('work_dir')
    prepare_test(
        cfg,
        args.checkpoint,
        work_dir=args.work_dir or in_config or default_work_dir(args.config, args.strategy),
        launcher=args.launcher,
        amp=args.amp,
        tta=args.tta,
        show=args.show,
        show_dir=args.show_dir,
        interval=args.interval,
        wait_time=args.wait_time,
        out_predictions=None if args.out_item == 'metrics' else args.out,
        pin_memory=not args.no_pin_memory,
    )
    if args.corruptions is not None:
        names = check_corruptions(args.corruptions)
        compared = args.corruption_baseline
        baseline = read_curves(compared) if compared else None
        allow_corruptions(cfg)
    with naming_bad_data():
        runner = build_runner(cfg, plain=args.plain)
        metrics = runner.test()
        if args.corruptions is not None:
            # What is called epoch_9 in every folder is told apart by the folders.
            called = '/'.join(Path(compared).absolute().parts[-3:]) if compared else None
            found = write_curves(runner, args.checkpoint, names, baseline, called)
            print('\n'.join(curves_in_words(found)))
            print(f'Written: {corruptions_path(args.checkpoint)}')
    if args.out_item == 'metrics' and is_main_process():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        dump(metrics, args.out)
    leave_cpu_group()


if __name__ == '__main__':
    run_main(main)
