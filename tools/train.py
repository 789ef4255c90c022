"""Train any mmpretrain config, with strategies merged over it."""

from __future__ import annotations

from argparse import Namespace

from arguments import (
    Parser,
    add_config_arguments,
    add_labels_argument,
    add_launch_arguments,
    parse,
)

from tl_plugin.datasets.bad_data import naming_bad_data
from tl_plugin.intake.label_corrections import correct_config, read_corrections, write_record
from tl_plugin.launch.configs import default_work_dir, load_config
from tl_plugin.launch.cpu import leave_cpu_group
from tl_plugin.launch.mistakes import run_main
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.reliability.ranks import naming_lost_ranks


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(description='Train a model')
    add_config_arguments(parser)
    add_launch_arguments(parser)
    add_labels_argument(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a path from the latest in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (on a GPU)')
    parser.add_argument('--no-validate', action='store_true', help="don't evaluate during training")
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the actual batch size over auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='restart the workers of dataloaders each epoch',
    )
    return parse(parser)


def main() -> None:
    """Run the tool."""
    args = parse_args()
    cfg = load_config(args.config, args.strategy, args.cfg_options)
    work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config, args.strategy)
    if args.labels is not None:
        corrections = read_corrections(args.labels)
        correct_config(cfg, corrections)
        write_record(corrections, work_dir)
        print(corrections.summary())
    prepare(
        cfg,
        work_dir=work_dir,
        launcher=args.launcher,
        resume=args.resume,
        amp=args.amp,
        validate=not args.no_validate,
        auto_scale_lr=args.auto_scale_lr,
        pin_memory=not args.no_pin_memory,
        persistent_workers=not args.no_persistent_workers,
    )
    with naming_lost_ranks(), naming_bad_data():
        build_runner(cfg, plain=args.plain).train()
    leave_cpu_group()


if __name__ == '__main__':
    run_main(main)
