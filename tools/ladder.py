"""Climb the ladder of strategies on a config and report what each of them gains and costs."""

from __future__ import annotations

import gc
import shlex
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import Parser, add_data_arguments, add_labels_argument, seed
from mmengine.config import Config, DictAction

from tl_plugin.launch.configs import default_work_dir
from tl_plugin.launch.mistakes import run_main

if TYPE_CHECKING:
    from tl_plugin.ladder.launchers import Launcher


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        description=__doc__,
        epilog='Run the same command again to resume: finished rungs are kept.',
    )
    parser.add_argument(
        'config', nargs='?', help='config with a `ladder`, or package::path of one in a package'
    )
    add_data_arguments(parser, required=False, backbone='to train, where there is no config')
    parser.add_argument(
        '--config',
        dest='model_config',
        metavar='CONFIG',
        help='of a trained --checkpoint: climb on it and --target alone, without source images',
    )
    add_labels_argument(parser)
    parser.add_argument(
        '--rungs', nargs='+', metavar='NAME', help='climb only these and those that they start from'
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a first look within minutes, beside --source and --target: small images, a last '
        'layer on frozen features, the cheapest rungs; says what the full climb would cost',
    )
    parser.add_argument('--seeds', nargs='+', type=seed, default=[0], help='runs of each rung')
    parser.add_argument('--work-dir', type=Path, help='folder of all runs, results and report')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override single settings of the config: key=value; of one rung: '
        'ladder.rungs.dann.options.train_cfg.max_epochs=5',
    )
    parser.add_argument(
        '--until',
        type=float,
        metavar='PERCENT',
        help='end the climb when a rung reaches this accuracy on target validation images',
    )
    parser.add_argument(
        '--budget-source',
        type=float,
        metavar='POINTS',
        help='points of source accuracy that the recommended rung may lose at most',
    )
    parser.add_argument(
        '--budget-time',
        type=float,
        metavar='SECONDS',
        help='start no further rung after this time',
    )
    parser.add_argument(
        '--early-stop',
        action='store_true',
        help='end the climb when a rung is as good on the target as source_only on the source',
    )
    parser.add_argument(
        '--jobs',
        type=number_of_jobs,
        metavar='N',
        help='rungs that go on at once on the cores; by default (auto) as many as pay by what '
        'source_only takes of cores and memory. Accuracies do not depend on it',
    )
    parser.add_argument(
        '--devices',
        nargs='+',
        metavar='GPU',
        help='run on these GPUs side by side, by default on all',
    )
    parser.add_argument(
        '--gpus-per-rung',
        type=int,
        default=1,
        metavar='K',
        help='GPUs that train one rung together; they share its batches',
    )
    parser.add_argument(
        '--launcher',
        choices=['local', 'slurm'],
        default='local',
        help='local: on this machine; slurm: each rung is a job that waits in the queue for those '
        'that it stands on',
    )
    parser.add_argument('--partition', help='of slurm jobs')
    parser.add_argument('--account', help='of slurm jobs')
    parser.add_argument(
        '--sbatch-args',
        default='',
        metavar='ARGUMENTS',
        help='more for sbatch: --sbatch-args="--time=2:00:00 --cpus-per-task=8"',
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        metavar='NAME',
        help='at the end test the recommended rung and source_only under corruptions at severities '
        '1 to 5 (all, or those named), for the report and the card',
    )
    parser.add_argument(
        '--markdown',
        type=Path,
        metavar='RESULTS',
        help='train nothing: print the table of a results.json for a README',
    )
    args = parser.parse_args()
    check_launcher(parser, args)
    if args.model_config is not None:
        check_source_free(parser, args)
        return args
    data = [args.source, args.target, args.backbone]
    given = [args.config is not None, args.markdown is not None, all(data)]
    if args.unlabelled and not all(data):
        parser.error('--unlabelled is for --target; a config says with_label=False itself')
    if args.quick and (not all(data) or args.rungs):
        parser.error('--quick is for --source, --target and --backbone, and has rungs of its own')
    if sum(given) != 1 or any(data) != all(data):
        parser.error(
            'give a config, or --source, --target and --backbone to write one from, or --config, '
            '--checkpoint and --target to climb without source images, or --markdown RESULTS to '
            'print a table'
        )
    return args


def check_launcher(parser: Parser, args: Namespace) -> None:
    """Refuse options of the other launcher."""
    only_here = {'--jobs': args.jobs, '--devices': args.devices, '--budget-time': args.budget_time}
    only_here['--corruptions'] = args.corruptions is not None
    only_there = {'--partition': args.partition, '--account': args.account}
    only_there['--sbatch-args'] = args.sbatch_args
    for flag, value in (only_here if args.launcher == 'slurm' else only_there).items():
        if value:
            there = 'on this machine' if flag in only_here else 'with --launcher slurm'
            parser.error(f'{flag} works {there} alone')


def check_source_free(parser: Parser, args: Namespace) -> None:
    """Refuse what doesn't go with a trained checkpoint and target images alone."""
    if args.checkpoint is None or args.target is None:
        parser.error('--config goes with --checkpoint MODEL and --target FOLDER')
    names = ('source', 'backbone', 'target_labels', 'image_size', 'labels', 'quick', 'markdown')
    given = [f'--{name.replace("_", "-")}' for name in names if getattr(args, name)]
    given += [args.config] if args.config is not None else []
    if given:
        parser.error(
            '--config, --checkpoint and --target climb without source images: leave out '
            f'{", ".join(given)}'
        )


def number_of_jobs(text: str) -> int | None:
    """Read ``--jobs``; None stands for auto."""
    return None if text == 'auto' else int(text)


def launcher(args: Namespace) -> Launcher:
    """Return where the runs go on."""
    if args.launcher == 'slurm':
        from tl_plugin.ladder.slurm import Slurm

        options = shlex.split(args.sbatch_args)
        return Slurm(args.partition, args.account, args.gpus_per_rung, options)
    from tl_plugin.ladder.launchers import ThisMachine, visible_devices

    machine = ThisMachine(args.devices or visible_devices(), args.jobs, args.gpus_per_rung)
    machine.get_ready()
    return machine


def write_config(args: Namespace) -> Path:
    """Write a config for data and a network beside the runs; return it."""
    from tl_plugin.intake.config_writer import config_from_data
    from tl_plugin.intake.source_free import config_from_checkpoint

    def write(folder: Path, image_size: int | None = None) -> Path:
        return config_from_data(
            args.source,
            args.target,
            args.backbone,
            folder,
            args.target_labels,
            args.checkpoint,
            image_size or args.image_size,
            unlabelled=args.unlabelled,
            labels=args.labels,
        )

    if args.model_config is not None:
        data = args.target, args.work_dir, args.unlabelled
        config = config_from_checkpoint(args.model_config, args.checkpoint, *data)
    elif args.quick:
        from tl_plugin.ladder.quick import quick_config

        config, args.rungs = quick_config(write, args.work_dir)
    else:
        config = write(args.work_dir)
    sys.stdout.reconfigure(errors='backslashreplace')  # names of files may not be printable
    for note in Config.fromfile(config).ladder.get('notes', ()):
        print(f'Note:    {note}')
    print(f'Config:  {config}')
    return config


def main() -> int:
    """Climb the ladder; return the exit code."""
    args = parse_args()
    if args.markdown:
        from tl_plugin.ladder.results import read_results
        from tl_plugin.ladder.table import markdown_table

        print(markdown_table(read_results(args.markdown)))
        return 0
    # Runs import in a process of their own while this one does.
    machine = launcher(args)
    from tl_plugin.analysis.corruption_curves import check_corruptions
    from tl_plugin.apis import calibrate_run
    from tl_plugin.ladder.limits import Limits
    from tl_plugin.ladder.run_ladder import run_ladder

    # What is imported stays; each data set that is built would search it for garbage.
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.config is None:
            args.work_dir = args.work_dir or Path(
                'work_dirs/quick' if args.quick else 'work_dirs/ladder'
            )
            args.config = write_config(args)
        elif args.labels is not None:
            from tl_plugin.intake.label_corrections import corrected_config_file

            args.work_dir = args.work_dir or Path(default_work_dir(args.config))
            args.config = corrected_config_file(args.config, args.labels, args.work_dir)
        return run_ladder(
            args.config,
            rungs=args.rungs,
            seeds=args.seeds,
            work_dir=args.work_dir or Path(default_work_dir(args.config)),
            cfg_options=args.cfg_options,
            limits=Limits(args.until, args.budget_source, args.budget_time, args.early_stop),
            launcher=machine,
            corruptions=[] if args.corruptions is None else check_corruptions(args.corruptions),
            calibrate=calibrate_run,
        )
    except KeyboardInterrupt:
        print(f'\nInterrupted. This resumes it:\n  {shlex.join(sys.argv)}')
        return 130


if __name__ == '__main__':
    run_main(main)
