"""Is the rung that the ladder recommends the one to take? Over pairs of domains that differ.

    python tools/benchmarks/recommendations.py --work-dir work_dirs/recommendations

Climbs the whole ladder on each pair, with few labels of the target, and compares the rung that
validation recommends with the one that is best on the target's test images, which nothing was
chosen by. What is finished is kept: the same command goes on. It needs data/pacs,
data/weights/tf_efficientnet_lite0.pth, data/mnist and data/mnist_m as in configs/pacs and
configs/mnist_m, and a degraded copy of photographs:

    python tools/degrade.py data/pacs/photo data/photo_field --held-out 0.5

With --no-target-labels: which score without labels chooses best, and how far off an expected
accuracy is, over thirteen models on frozen features of eight pairs, see without_labels.py. It needs
data/pacs128, data/mnist/MNIST/raw and the same weights:

    python tools/benchmarks/recommendations.py --no-target-labels

With --whole-rungs, rungs are trained on these pairs by the ladder itself, the default ones where
none is named, without target labels or with 5 of each class, see whole_rungs.py:

    python tools/benchmarks/recommendations.py --no-target-labels --whole-rungs
    python tools/benchmarks/recommendations.py --whole-rungs
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import harness
import pairs

TOOL = Path(__file__).resolve().parents[1] / 'ladder.py'
BASELINE, DOMAINS = 'source_only', ('source', 'target')
#: 5 labels a class; small images and short training, so that all of it takes an evening on a CPU.
NETWORK = [
    '--target-labels',
    '5',
    '--backbone',
    'timm:tf_efficientnet_lite0',
    '--checkpoint',
    'data/weights/tf_efficientnet_lite0.pth',
    '--image-size',
    '64',
]


def folders(source, target, epochs):
    """Return the ladder's arguments for two folders of images."""
    data = ['--source', f'data/{source}', '--target', f'data/{target}']
    return [*data, *NETWORK, '--cfg-options', f'train_cfg.max_epochs={epochs}']


@dataclass(frozen=True)
class Pair:
    """Two domains.

    Args:
        ladder: Arguments of tools/ladder.py.
        seeds: Runs of each rung.
        ceiling: Arguments of a run on the target's own labels, all of them.
    """

    ladder: list
    seeds: tuple = (0,)
    ceiling: list = field(default_factory=list)


PAIRS = {
    'digits, scanned -> field': Pair(['configs/digits/ladder.py']),
    'MNIST -> MNIST-M': Pair(['configs/mnist_m/ladder.py']),
    'PACS photo -> cartoon': Pair(folders('pacs/photo', 'pacs/cartoon', 4)),
    'PACS photo -> art_painting': Pair(folders('pacs/photo', 'pacs/art_painting', 6)),
    'PACS cartoon -> photo': Pair(folders('pacs/cartoon', 'pacs/photo', 4)),
    'photographs -> degraded photographs': Pair(
        [*folders('photo_field/source', 'photo_field/target', 12), '--budget-source', '1'],
        seeds=(0, 1, 2),
        ceiling=folders('photo_field/target', 'photo_field/target', 12),
    ),
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/recommendations'))
    parser.add_argument('--pairs', nargs='+', metavar='PAIR', help='some of them, by name')
    parser.add_argument('--at-once', type=int, default=1, help='ladders that are climbed at once')
    parser.add_argument('--table', action='store_true', help='climb nothing, read what is there')
    parser.add_argument(
        '--no-target-labels',
        action='store_true',
        help='judge choices and expected accuracy where no target image has a label',
    )
    parser.add_argument(
        '--whole-rungs', action='store_true', help='climb whole ladders on the eight pairs'
    )
    parser.add_argument('--rungs', nargs='+', default=[], help='with --whole-rungs: these alone')
    parser.add_argument('--data', type=Path, default=Path('data'), help='of the eight pairs')
    parser.add_argument(
        '--weights',
        type=Path,
        default=Path('data/weights/tf_efficientnet_lite0.pth'),
        help='for the eight pairs',
    )
    harness.add_out(parser)
    args = parser.parse_args()
    known = pairs.PAIRS if args.no_target_labels or args.whole_rungs else PAIRS
    args.pairs = args.pairs or list(known)
    if unknown := [name for name in args.pairs if name not in known]:
        parser.error(f'--pairs: invalid choice {unknown[0]!r}; there are {", ".join(known)}')
    if args.rungs and not args.whole_rungs:
        parser.error('--rungs goes with --whole-rungs')
    return args


def measure_without_labels(args):
    """Judge choices and estimates that need no target label, and write what was found."""
    import without_labels

    found = without_labels.measure(args.work_dir / 'no_labels', args.data, args.weights, args.pairs)
    harness.write({**found, 'lines': without_labels.lines(found)}, args)


def measure_whole_rungs(args):
    """Climb whole ladders; write what was found when a pair is finished."""
    import whole_rungs

    labelled = not args.no_target_labels
    work_dir = (args.work_dir / ('labelled_rungs' if labelled else 'whole_rungs')).absolute()
    if args.table:
        sys.argv.remove('--table')
        found = whole_rungs.read(work_dir, args.pairs, labelled)
    else:
        found = whole_rungs.measure(
            work_dir, args.data, args.weights, args.pairs, labelled, args.rungs
        )
    for so_far in found:
        harness.write({**so_far, 'lines': whole_rungs.lines(so_far)}, args)


def folder_of(pair, work_dir, what='ladder'):
    return work_dir / ''.join(c if c.isalnum() else '_' for c in pair) / what


def climb(name, work_dir):
    """Climbs one pair's ladder, and trains its ceiling."""
    pair = PAIRS[name]
    seeds = ['--seeds', *map(str, pair.seeds)]
    runs = {'ladder': [*pair.ladder, *seeds]}
    if pair.ceiling:
        runs['ceiling'] = [*pair.ceiling, *seeds, '--rungs', BASELINE]
    for what, arguments in runs.items():
        folder = folder_of(name, work_dir, what)
        folder.mkdir(parents=True, exist_ok=True)
        # Options that take several values come before those that take one.
        command = [sys.executable, str(TOOL), *arguments, '--work-dir', str(folder)]
        with (folder / 'console.log').open('ab') as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)


def read(name, work_dir, what='ladder'):
    """Return the results of a pair's ladder; None if it wasn't climbed."""
    path = folder_of(name, work_dir, what) / 'results.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def compare(name, results, ceiling):
    """One row of the table: the recommended rung against the best one, in test accuracy."""
    rungs = {rung['name']: rung for rung in results['rungs']}
    chosen, base = rungs[results['recommendation']['rung']], rungs[BASELINE]
    best = max(rungs.values(), key=lambda rung: rung['domains']['target']['accuracy'])
    row = dict(
        pair=name,
        seeds=chosen['seeds'],
        recommended=chosen['name'],
        best=best['name'],
        source_only=base['domains']['target']['accuracy'],
        target=chosen['domains']['target']['accuracy'],
        behind_best=round(
            best['domains']['target']['accuracy'] - chosen['domains']['target']['accuracy'], 2
        ),
        source_change=chosen['domains']['source']['change'],
        minutes=round(sum(r['seconds'] * len(r['seeds']) for r in rungs.values()) / 60, 1),
        commit=results['commit'],
        rungs={
            rung: [found['domains']['target']['accuracy'], found['domains']['source']['accuracy']]
            for rung, found in rungs.items()
        },
        interpolation=interpolation(rungs),
    )
    if ceiling:
        top = ceiling['rungs'][0]['domains']['target']['accuracy']
        gap = top - base['domains']['target']['accuracy']
        row.update(
            ceiling=top,
            recovered=round((row['target'] - base['domains']['target']['accuracy']) / gap, 3),
        )
    return row


def interpolation(rungs):
    """Whether a point on the way to the adapted model is better than that model, on validation.

    Returns:
        ``forgot``, points of the source's test accuracy that the adapted model lost, and of each
        seed the largest gain on source validation images over that model by a point that loses no
        more than 0.5 on the target's; None without such a rung.
    """
    rung = rungs.get('interpolation')
    if rung is None:
        return None
    adapted = rungs[rung['towards']]
    ends = zip(*(adapted['validation'][f'{domain}/accuracy/top1'] for domain in DOMAINS))
    gains = []
    for folder, (source, target) in zip(rung['folders'], ends):
        curve = json.loads(Path(folder, 'interpolation.json').read_text(encoding='utf-8'))
        kept = [p['source'] - source for p in curve['points'] if p['target'] >= target - 0.5]
        gains.append(round(max(kept, default=0.0), 2))
    return dict(
        towards=rung['towards'], forgot=-adapted['domains']['source']['change'], gains=gains
    )


def lines(rows):
    """Return the table's lines: what was recommended, against the best."""
    found = []
    for row in rows:
        seeds = f'{len(row["seeds"])} seed{"s"[: len(row["seeds"]) > 1]}'
        more = f', {row["recovered"]:.0%} of the gap to all labels' if 'recovered' in row else ''
        found.append(
            dict(
                what=f'{row["pair"]} ({seeds}), target accuracy: {row["recommended"]} is '
                f'recommended, {row["best"]} is best; source {row["source_change"]:+.1f}{more}',
                ours=row['target'],
                plain=row['target'] + row['behind_best'],
                unit='%',
                ratio=row['target'] / (row['target'] + row['behind_best']),
            )
        )
    found += [
        dict(
            what=f'{row["pair"]}: {way["towards"]} forgot {way["forgot"]:.1f} points of the '
            'source; the best point on the way there that keeps its target accuracy within 0.5 '
            f'has {", ".join(f"{gain:+.1f}" for gain in way["gains"])} on source validation '
            'images',
            ours=None,
            plain=None,
            unit='',
            ratio=None,
        )
        for row in rows
        if (way := row['interpolation'])
    ]
    return found


def main():
    args = parse_args()
    if args.whole_rungs or args.no_target_labels:
        (measure_whole_rungs if args.whole_rungs else measure_without_labels)(args)
        return
    if not args.table:
        with ThreadPoolExecutor(args.at_once) as pool:
            list(pool.map(lambda name: climb(name, args.work_dir), args.pairs))
    rows = []
    for name in args.pairs:
        results = read(name, args.work_dir)
        if results and results['recommendation']:
            rows.append(compare(name, results, read(name, args.work_dir, 'ceiling')))
    if args.table:
        sys.argv.remove('--table')  # what was read is what the command without it measures
    near = sum(row['behind_best'] <= 1 for row in rows)
    minutes = round(sum(row['minutes'] for row in rows))
    median = statistics.median(row['behind_best'] for row in rows) if rows else None
    harness.write(
        dict(
            within_one_point=f'{near} of {len(rows)}',
            median_behind=median,
            minutes=minutes,
            rows=rows,
            lines=lines(rows),
        ),
        args,
    )


if __name__ == '__main__':
    main()
