"""Runs the tests marked `gpu` and the ratios that matter on a GPU; writes results/gpu.json.

`bash tools/benchmarks/gpu_check.sh` sets up and calls this. Each ratio has a goal beside it; a goal
that is missed is reported, a test that fails makes the command fail.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from importlib.metadata import distribution, version
from pathlib import Path

import harness  # noqa: F401  which finds the package
import make_readme
import paired_loading
import timm
import torch
from packaging.requirements import Requirement

from tl_plugin.ladder.results import commit, machine, versions
from tl_plugin.reliability.files import write_json

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
#: What the machine with the GPU brings, with everything that hangs on it.
LEFT_OUT = ('torch', 'torchvision', 'timm')

OUTCOMES = ('failure', 'error', 'skipped')  # of a test that didn't pass, as pytest says it

#: Name of a part -> script, its arguments on a GPU and in a dry run, and patterns of its lines with
#: the goal of each: a ratio that should be at most that.
PARTS = {
    'dann step, ResNet-50': (
        'naive_dann',
        '--model resnet50 --size 224 --batch-size 64 --steps 15',
        '--model test_resnet --size 32 --batch-size 4 --steps 2',
        {'against source-only': 1.03, 'dann, against the naive': 0.60},
    ),
    'dann step, ViT-B': (
        'naive_dann',
        '--model vit_base_patch16_224 --size 224 --batch-size 64 --steps 10',
        '--model test_vit --size 160 --batch-size 2 --steps 2',
        {'against source-only': 1.03, 'dann, against the naive': 0.60},
    ),
    'layer-wise AdamW step, ViT-B': (
        'optimizer_step',
        '--widths 768 --steps 30',
        '--widths 24 --steps 2',
        {'': 0.60},
    ),
    'frozen trunk, ViT-B': (
        'frozen_trunk',
        '--width 768 --heads 12 --size 224 --patch 16 --batch-size 64 --steps 10 --frozen 0 7 13',
        '--width 16 --batch-size 2 --steps 2 --frozen 7',
        {'forward and backward': 1.03, 'activations': 1.03},
    ),
    'cached features, EfficientNet-Lite0': (
        'cached_features',
        '--epochs 10 --batch-size 64 --workers 8 --head-batch-sizes --images {images} '
        '--weights {weights}',
        '--epochs 1 --batch-size 4 --head-batch-sizes --images {images} --weights {weights}',
        {'epochs of feature extraction': 0.20},
    ),
    'paired loading from JPEG files': (
        'paired_loading',
        '--images 1024 --image-size 480 --batch-size 64 --workers 4 --passes 5',
        '--images 16 --image-size 64 --batch-size 4 --workers 0 --passes 1',
        {'pass over': 1.05},
    ),
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--dry-run', action='store_true', help='small, and on the CPU')
    parser.add_argument('--minutes', type=float, help='parts beyond are left out; by default 6')
    parser.add_argument('--out', type=Path, default=FOLDER / 'results' / 'gpu.json')
    parser.add_argument('--collect', type=Path, metavar='FOLDER', help='download the wheels, only')
    parser.add_argument('--for-python', help="of the other machine, such as 3.12; here: this one's")
    parser.add_argument('--leave-out', nargs='+', default=[], help='packages that it has already')
    return parser.parse_args()


class Check:
    """One run of everything, whose results are on disk after each part."""

    def __init__(self, args):
        # A dry run is on whatever CPU there is, and has no minute that costs anything.
        self.minutes = args.minutes or (60 if args.dry_run else 6)
        self.args, self.deadline = args, time.monotonic() + 60 * self.minutes
        where = dict(machine=machine(), commit=commit(), versions=versions())
        self.result = dict(dry_run=args.dry_run, **where, tests=None, parts=[])

    def remaining(self):
        return self.deadline - time.monotonic()

    def save(self):
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.args.out, self.result)

    def run(self):
        """Run everything; return whether all of it did what it should."""
        with tempfile.TemporaryDirectory() as folder:
            paths = write_inputs(Path(folder), self.args.dry_run)
            self.test(Path(folder))
            for name in PARTS:
                self.measure(name, Path(folder), paths)
        failed = [part['name'] for part in self.result['parts'] if 'error' in part]
        return not failed and self.result['tests']['failed'] == 0

    def test(self, folder):
        """Run the tests marked `gpu` and count how they ended."""
        environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
        if self.args.dry_run:
            environment.update(TL_PLUGIN_GPU_DRY_RUN='1')
        start, report = time.monotonic(), folder / 'tests.xml'
        command = [sys.executable, '-W', 'ignore', '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
        command += ['-m', 'gpu', 'tests/test_gpu.py', f'--junitxml={report}', '-n', '2']
        if self.args.dry_run:
            command += ['-k', 'bfloat16 and (dann or mcc) or pinned or (same_number and mcc)']
        try:
            subprocess.run(command, cwd=ROOT, env=environment, timeout=0.7 * self.remaining())
        except subprocess.TimeoutExpired:
            print('the tests took too long and were stopped', file=sys.stderr)
        self.result['tests'] = dict(count(report), seconds=round(time.monotonic() - start, 1))
        self.save()

    def measure(self, name, folder, paths):
        """Run one benchmark and add its ratios, or why there are none."""
        script, on_gpu, small, goals = PARTS[name]
        arguments = (small if self.args.dry_run else on_gpu).format(**paths).split()
        out, start = folder / f'{script}.json', time.monotonic()
        command = [sys.executable, '-W', 'ignore', str(FOLDER / f'{script}.py'), *arguments]
        part = dict(name=name, command=' '.join(['python', f'{script}.py', *arguments]))
        try:
            done = subprocess.run(
                [*command, '--out', str(out)],
                capture_output=True,
                text=True,
                timeout=max(self.remaining(), 1),
            )
            if done.returncode:
                part['error'] = done.stderr[-2000:]
            else:
                goals = {} if self.args.dry_run else goals
                part['lines'] = lines_of(script, json.loads(out.read_text()), goals)
        except subprocess.TimeoutExpired:
            part['error'] = f'left out: it would end after the {self.minutes:g} minutes'
        part['seconds'] = round(time.monotonic() - start, 1)
        self.result['parts'].append(part)
        self.save()
        print_part(part)


def lines_of(script, result, goals):
    """Return the lines of a benchmark, each with its goal and whether it was reached."""
    found = []
    for line in make_readme.lines_of(script, result):
        line = dict(line)
        for pattern, goal in goals.items():
            if pattern in line['what']:
                line.update(goal=goal, reached=line.get('ratio_in_turn', line['ratio']) <= goal)
        found.append(line)
    return found


def print_part(part):
    print(f'\n{part["name"]} ({part["seconds"]} s)')
    for line in part.get('lines', ()):
        goal = '' if 'goal' not in line else f'  goal {line["goal"]:g}'
        missed = '' if line.get('reached', True) else ': missed'
        ratio = line.get('ratio_in_turn', line['ratio'])
        print(f'  {line["what"]}: {ratio:.3f}{goal}{missed}')
    if 'error' in part:
        print('  ' + part['error'].replace('\n', '\n  '))


def write_inputs(folder, small):
    """Write images in class folders and weights, for what reads them from files."""
    paired_loading.write_images(folder, 12 if small else 2048, 64 if small else 224)
    torch.save(timm.create_model('tf_efficientnet_lite0').state_dict(), folder / 'weights.pth')
    return dict(images=folder / 'source', weights=folder / 'weights.pth')


def count(report):
    """Count tests by outcome in pytest's report, with the names of those that failed."""
    if not report.exists():
        return dict(passed=0, failed=1, skipped=0, failures=['pytest ended before it reported'])
    cases = list(ElementTree.parse(report).iter('testcase'))
    ended = {kind: [c for c in cases if c.find(kind) is not None] for kind in OUTCOMES}
    bad = [*ended['failure'], *ended['error']]
    return dict(
        passed=len(cases) - len(bad) - len(ended['skipped']),
        failed=len(bad),
        skipped=len(ended['skipped']),
        failures=[case.get('name') for case in bad],
    )


def needed(name, extras=(), seen=None):
    """Return an installed package and what it needs, without what LEFT_OUT brings."""
    seen = {} if seen is None else seen
    found = distribution(name)
    seen[re.sub(r'[-_.]+', '-', name.lower())] = found.version
    for text in found.requires or ():
        requirement = Requirement(text)
        key = re.sub(r'[-_.]+', '-', requirement.name.lower())
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate(dict(extra=extra)) for extra in (*extras, '')
        )
        if wanted and key not in seen and key not in LEFT_OUT:
            needed(requirement.name, requirement.extras, seen)
    return seen


def collect(args):
    """Download the wheels of what this environment has beside torch."""
    wanted = needed('mmpretrain-tl-plugin', ('openmmlab', 'lite', 'test'))
    wanted.update(setuptools=version('setuptools'), wheel=version('wheel'))
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    target = ['--no-deps', '--quiet', '--dest', str(args.collect), '--only-binary=:all:']
    if args.for_python:
        target += ['--python-version', args.for_python, '--implementation', 'cp']
        for tag in ('2_28', '2_27', '2_24', '2_17', '2014', '1'):
            target += ['--platform', f'manylinux{"_" if "_" in tag else ""}{tag}_x86_64']
    for name, number in sorted(wanted.items()):
        if name in ('mmpretrain-tl-plugin', *args.leave_out):
            continue
        if subprocess.run([*pip, 'download', *target, f'{name}=={number}']).returncode:
            # Only its source is published: a pure-Python package, which pip makes a wheel of.
            options = ['--no-deps', '--quiet', '--wheel-dir', str(args.collect)]
            subprocess.run([*pip, 'wheel', *options, f'{name}=={number}'], check=True)
    size = sum(path.stat().st_size for path in args.collect.iterdir())
    print(f'{len(list(args.collect.iterdir()))} wheels, {size / 2**20:.0f} MiB in {args.collect}')


def main():
    args = parse_args()
    if args.collect:
        args.collect.mkdir(parents=True, exist_ok=True)
        return collect(args)
    if not torch.cuda.is_available() and not args.dry_run:
        raise SystemExit('error: torch sees no GPU here; --dry-run does the same on the CPU')
    return 0 if Check(args).run() else 1


if __name__ == '__main__':
    sys.exit(main())
