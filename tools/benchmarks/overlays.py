"""Overlays beside those that they extend, on the digits: the same source models, three seeds.

    python tools/ladder.py configs/digits/ladder.py --rungs source_only --seeds 0 1 2
    python tools/benchmarks/overlays.py work_dirs/ladder/source_only/seed_*/epoch_20.pth

Trains the rungs of configs/digits/adaptations.py, and reads the test images once, at the last
epoch. What --out has already isn't trained again.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from statistics import fmean

import harness

from tl_plugin.ladder.ready_config import ready_config
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare

#: Overlay -> what it is compared with.
PAIRS = {'dann_sdat': 'dann', 'adamatch': 'pseudo_label', 'aad': 'shot'}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('checkpoints', nargs='+', type=Path, help='source models, seed 0, 1, ...')
    parser.add_argument('--rungs', nargs='+', default=[*PAIRS.values(), *PAIRS])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overlays'))
    harness.add_out(parser)
    return parser.parse_args()


def train(cfg, rung, seed, start, folder):
    """Train a rung; return what it reaches on both domains, in percent, and its CPU seconds."""
    ready = ready_config(cfg, rung, seed)
    ready.load_from, ready.log_level = str(start), 'WARNING'
    ready.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1000)
    ready.train_cfg.val_interval = 1000
    ready.experiment_name = f'{rung.name}_{seed}'
    runner = build_runner(prepare(ready, work_dir=folder))
    begun = time.process_time()
    if rung.name != 'source_only':
        runner.train()
    seconds = time.process_time() - begun
    metrics = runner.test()
    shutil.rmtree(folder)
    return dict(
        target=metrics['target/accuracy/top1'],
        source=metrics['source/accuracy/top1'],
        seconds=round(seconds, 1),
    )


def lines_of(rows):
    """Return the lines of the page."""
    lines = []
    for ours, plain in PAIRS.items():
        if len(rows.get(ours, ())) == len(rows.get(plain, ())) > 0:
            for domain in ('target', 'source'):
                means = [fmean(row[domain] for row in rows[name]) for name in (ours, plain)]
                what = f'{ours} against {plain}: {domain} accuracy'
                lines.append(harness.line(what, *means, '%', 1.0))
            means = [fmean(row['seconds'] for row in rows[name]) for name in (ours, plain)]
            lines.append(harness.line(f'{ours} against {plain}: time', *means, 's', 1.0))
    return lines


def main():
    args = parse_args()
    cfg = load_config('configs/digits/adaptations.py')
    rungs = read_rungs(cfg.ladder)
    known = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    rows = known.get('rows', {})
    for seed, start in enumerate(args.checkpoints):
        for name in ('source_only', *args.rungs):
            if len(rows.setdefault(name, [])) <= seed:
                folder = args.work_dir / f'{name}_{seed}'
                rows[name].append(train(cfg, rungs[name], seed, start, folder))
                harness.write(dict(rows=rows, lines=lines_of(rows)), args)


if __name__ == '__main__':
    main()
