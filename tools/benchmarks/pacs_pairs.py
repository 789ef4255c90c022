"""Measures an overlay and TLlib's DANN, CDAN and MCC on all six pairs of three PACS domains.

Same network, weights, images and iterations, no target label, accuracy at the last iteration: ours
by tools/measure.py, which keeps its runs in configs/pacs/metafile.yml, TLlib's by
tllib_accuracy.py. Seed by seed and pair by pair; what is measured is kept, and the same command
goes on. The table names the pairs that were looked at while ours was written.

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
#: Looked at while self_training was written.
CHOSEN_ON = ('photo -> art_painting', 'art_painting -> cartoon', 'cartoon -> art_painting')
METHODS = ('dann', 'cdan', 'mcc')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--ours', default='from_frozen+self_training', help='see tools/measure.py')
    parser.add_argument('--tllib', type=Path, help='its checkout; without one, ours alone')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--table', action='store_true', help='measure nothing, read what is there')
    harness.add_out(parser)
    return parser.parse_args()


def measured(ours):
    """Return (method, task) -> seed -> target accuracy; 'ours' is one of the methods."""
    found = {}
    for entry in yaml.safe_load((PACS / 'metafile.yml').read_text(encoding='utf-8'))['Models']:
        if entry['Name'].startswith(f'{ours}_') and entry['Runs']:
            runs = {run['seed']: run['target'] for run in entry['Runs']}
            found['ours', entry['Metadata']['Task']] = runs
    for run in json.loads(TLLIB.read_text(encoding='utf-8'))['runs']:
        runs = found.setdefault((run['method'], run['task']), {})
        runs[run['seed']] = run['target']
    return found


def measure(args):
    known = measured(args.ours)
    for seed, (source, target) in itertools.product(args.seeds, PAIRS):
        task = f'{source} -> {target}'
        commands = {
            'ours': ['measure.py', PACS, args.ours, '--seeds', str(seed)],
            **{
                method: [
                    'benchmarks/tllib_accuracy.py', method, '--tllib', args.tllib, '--seed', seed
                ]
                for method in (METHODS if args.tllib else ())
            },
        }  # fmt: skip
        for method, (tool, *rest) in commands.items():
            if seed in known.get((method, task), {}):
                continue
            env = {**os.environ, 'PACS_SOURCE': source, 'PACS_TARGET': target}
            command = [sys.executable, str(TOOLS / tool), *map(str, rest)]
            subprocess.run(command, env=env, check=False)


def lines(found):
    """Return a line for each pair: ours against the best of TLlib's, over the seeds of both."""
    rows = []
    for task in (f'{source} -> {target}' for source, target in PAIRS):
        ours = found.get(('ours', task), {})
        theirs = {name: found.get((name, task), {}) for name in METHODS}
        theirs = {name: runs for name, runs in theirs.items() if {*runs} & {*ours}}
        seeds = {*ours}.intersection(*theirs.values())
        if not seeds or not theirs:
            continue
        mean, means = (
            {name: fmean(runs[seed] for seed in seeds) for name, runs in several.items()}
            for several in ({'ours': ours}, theirs)
        )
        best = max(means, key=means.get)
        what = f'{task} (seeds {sorted(seeds)}), against TLlib {best}, best of {", ".join(means)}'
        what += '; it was looked at while ours was written' if task in CHOSEN_ON else ''
        rows.append(harness.line(what, mean['ours'], means[best], unit='%', scale=1))
    if len(rows) > 1:
        values = ([row[key] for row in rows] for key in ('ours', 'plain'))
        what = f'mean over {len(rows)} of {len(PAIRS)} pairs'
        rows.append(harness.line(what, *map(fmean, values), unit='%', scale=1))
    return rows


def main():
    args = parse_args()
    if not args.table:
        measure(args)
    harness.write(dict(ours=args.ours, lines=lines(measured(args.ours))), args)


if __name__ == '__main__':
    main()
