"""Train and test leaf configs; write their results into their metafile and README."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from arguments import seed

from tl_plugin.launch.mistakes import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Run the same command again to resume: results in the metafile are kept as long as '
        'the config is the same.',
    )
    parser.add_argument('folder', type=Path, help='such as configs/mnist_m')
    parser.add_argument(
        'configs',
        nargs='*',
        help='its configs, without .py; without any, only the table is written',
    )
    parser.add_argument('--seeds', nargs='+', type=seed, default=[0], help='runs of each config')
    parser.add_argument('--work-dir', type=Path, help='by default work_dirs/measure/<folder>')
    parser.add_argument(
        '--again', action='store_true', help='also run what is in the metafile already'
    )
    return parser.parse_args()


def main() -> int:
    """Measure the configs; return the exit code."""
    args = parse_args()
    from tl_plugin.ladder.climb import climb
    from tl_plugin.ladder.metafile import (
        add_run,
        plan_configs,
        read_entries,
        without_measured,
        write_table,
    )
    from tl_plugin.reporting.progress import ProgressDisplay

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work_dir = args.work_dir or Path('work_dirs/measure') / args.folder.name
    tasks = plan_configs(args.folder, args.configs, args.seeds, work_dir)
    failed = 0
    for task, jobs in tasks.items():
        if not args.again:
            jobs = without_measured(jobs, read_entries(args.folder))
        with ProgressDisplay(len(jobs), name='runs') as display:
            for job in jobs:
                failures, _ = climb([job], display)
                failed += len(failures)
                if not failures:
                    # After each run, so that nothing is lost.
                    add_run(args.folder, task, job)
                    write_table(args.folder / 'README.md', read_entries(args.folder))
    write_table(args.folder / 'README.md', read_entries(args.folder))
    return 1 if failed else 0


if __name__ == '__main__':
    run_main(main)
