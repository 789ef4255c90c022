"""Measures overlays and TLlib's DANN, CDAN and MCC on all six pairs of three PACS domains.

Same network, weights, images and iterations, no target label, accuracy at the last iteration: ours
by tools/measure.py, which keeps its runs in configs/pacs/metafile.yml, TLlib's by
tllib_accuracy.py. Seed by seed, method by method and pair by pair; a run that is measured is kept,
and the same command goes on with the others. The table says what isn't measured. frozen_alignment
has no chance in it: all seeds of it are one, and it is compared with each seed of theirs.

    python tools/benchmarks/pacs_pairs.py --tllib ../TLlib --seeds 0 1 2
    python tools/benchmarks/pacs_pairs.py --table
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import harness
import yaml

TOOLS = Path(__file__).resolve().parents[1]
PACS = TOOLS.parent / 'configs' / 'pacs'
TLLIB = Path(__file__).resolve().parent / 'results' / 'tllib_accuracy.json'
PAIRS = [*itertools.permutations(('photo', 'art_painting', 'cartoon'), 2)]
#: Ours. All six pairs were looked at while they were written.
OURS = ('frozen_alignment', 'from_frozen+self_training')
#: Configs whose result is the same for each seed.
WITHOUT_CHANCE = ('frozen_alignment',)
METHODS = ('mcc', 'dann', 'cdan')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--ours', nargs='+', default=list(OURS), help='see tools/measure.py')
    parser.add_argument('--tllib', type=Path, help='its checkout; without one, ours alone')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--table', action='store_true', help='measure nothing, read what is there')
    harness.add_out(parser)
    return parser.parse_args()


def measured(ours):
    """Return (method, task) -> seed -> target accuracy; 'ours' is one of the methods."""
    found = {}
    theirs = json.loads(TLLIB.read_text(encoding='utf-8'))['runs']
    for run in theirs:
        found.setdefault((run['method'], run['task']), {})[run['seed']] = run['target']
    for entry in yaml.safe_load((PACS / 'metafile.yml').read_text(encoding='utf-8'))['Models']:
        if entry['Name'].startswith(f'{ours}_') and entry['Runs']:
            runs = {run['seed']: run['target'] for run in entry['Runs']}
            if ours in WITHOUT_CHANCE:
                runs = dict.fromkeys([*runs, *(run['seed'] for run in theirs)], runs.popitem()[1])
            found['ours', entry['Metadata']['Task']] = runs
    return found


def measure(args):
    methods = (*args.ours, *(METHODS if args.tllib else ()))
    for seed, method, (source, target) in itertools.product(args.seeds, methods, PAIRS):
        ours = method in args.ours
        key = ('ours' if ours else method, f'{source} -> {target}')
        known = measured(method).get(key, {})
        if seed in known or (known and method in WITHOUT_CHANCE):
            continue
        command = ['measure.py', PACS, method, '--seeds', seed]
        if not ours:
            tool = 'benchmarks/tllib_accuracy.py'
            command = [tool, method, '--tllib', args.tllib, '--seed', seed]
        env = {**os.environ, 'PACS_SOURCE': source, 'PACS_TARGET': target}
        tool, *rest = map(str, command)
        subprocess.run([sys.executable, str(TOOLS / tool), *rest], env=env, check=False)


def lines(found):
    """Return a line for each pair: ours against the best of TLlib's, over the seeds of both.

    Each of theirs counts with the seeds that it was run with; that may be fewer than the best's.
    """
    rows, missing = [], []
    for task in (f'{source} -> {target}' for source, target in PAIRS):
        own = found.get(('ours', task), {})
        theirs = {name: found.get((name, task), {}) for name in METHODS}
        seeds = {name: {*runs} & {*own} for name, runs in theirs.items()}
        means = {
            name: fmean(theirs[name][seed] for seed in known)
            for name, known in seeds.items()
            if known
        }
        if not means:
            lacking = 'ours' if not own else 'TLlib'
            missing.append(_not_measured(f'{task}: {lacking} not measured yet', own))
            continue
        best = max(means, key=means.get)
        measured = ', '.join(f'{name} (of {len(seeds[name])})' for name in means)
        what = (
            f'{task}, seeds {sorted(seeds[best])}, against TLlib {best}, best of {measured} seeds'
        )
        absent = [name for name in METHODS if name not in means]
        what += f' ({", ".join(absent)} not measured yet)' if absent else ''
        mean = fmean(own[seed] for seed in seeds[best])
        rows.append(harness.line(what, mean, means[best], unit='%', scale=1))
    if len(rows) > 1:
        values = ([row[key] for row in rows] for key in ('ours', 'plain'))
        what = f'mean over {len(rows)} of {len(PAIRS)} pairs'
        rows.append(harness.line(what, *map(fmean, values), unit='%', scale=1))
    return rows + missing


def _not_measured(what, own):
    ours = fmean(own.values()) if own else None
    return dict(what=what, ours=ours, plain=None, unit='%', ratio=None)


def main():
    args = parse_args()
    if not args.table:
        measure(args)
    rows = [
        {**row, 'what': f'{ours}, {row["what"]}'}
        for ours in args.ours
        for row in lines(measured(ours))
    ]
    harness.write(dict(ours=args.ours, lines=rows), args)


if __name__ == '__main__':
    main()
