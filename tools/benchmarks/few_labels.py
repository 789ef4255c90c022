"""Rungs that train a part, or each layer at its own rate, beside fine-tuning: 5 labels a class.

    python tools/benchmarks/few_labels.py --work-dir work_dirs/few_labels

EfficientNet-Lite0 with ImageNet weights learns the source, and then these rungs of the ladder start
from that, on four pairs with three seeds. What is finished is kept: the same command goes on. It
needs data/mnist, data/pacs128 and data/weights/tf_efficientnet_lite0.pth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import cv2
import harness
import numpy as np
from mmpretrain.datasets import MNIST

from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.datasets.digits import DigitsDataset

TOOLS = Path(__file__).resolve().parents[1]
RUNGS = ('fine_tune', 'lora', 'surgical_fine_tune', 'auto_rgn')
#: Pair -> passes over the source.
PAIRS = {'digits': 20, 'mnist': 12, 'pacs': 3, 'photographs': 12}
#: MNIST images of each class, in either domain.
EACH = 80


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/few_labels'))
    parser.add_argument('--data', type=Path, default=Path('data'))
    parser.add_argument('--pairs', nargs='+', choices=PAIRS, default=[*PAIRS])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--image-size', type=int, default=64)
    harness.add_out(parser)
    return parser.parse_args()


def write_images(folder, dataset, rows, change=None):
    """Write images of a data set into class folders."""
    for row in rows:
        info = dataset.get_data_info(int(row))
        image = info['img']
        if change is not None:
            image = change(dict(img=image, img_path=f'{row}.png', sample_idx=int(row)))['img']
        path = folder / f'class_{int(info["gt_label"])}' / f'{row}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


class Colour:
    """Data of grey images, in three channels."""

    def __init__(self, dataset):
        self.dataset = dataset

    def get_data_info(self, index):
        """Read an image."""
        info = self.dataset.get_data_info(index)
        return {**info, 'img': np.repeat(np.asarray(info['img']).reshape(28, 28, 1), 3, axis=2)}


def folders(pair, args):
    """Return the folders of both domains, written where they are not there yet."""
    if pair == 'pacs':
        return [args.data / 'pacs128' / name for name in ('photo', 'cartoon')]
    found = [args.work_dir / 'data' / pair / name for name in ('source', 'target')]
    if found[1].is_dir():
        return found
    if pair == 'photographs':
        command = [TOOLS / 'degrade.py', args.data / 'pacs128/photo', found[0].parent]
        subprocess.run([sys.executable, *map(str, command), '--held-out', '0.5'], check=True)
        return found
    if pair == 'digits':
        for folder, quality in zip(found, ('clean', 'field')):
            dataset = DigitsDataset(quality=quality, split='train')
            write_images(folder, dataset, range(len(dataset)))
        return found
    dataset = MNIST(str(args.data / 'mnist' / 'MNIST' / 'raw'), 'train', download=False)
    labels = np.array(dataset.get_gt_labels())
    rows = np.stack([np.flatnonzero(labels == k)[: 2 * EACH] for k in range(10)])
    write_images(found[0], Colour(dataset), rows[:, :EACH].ravel())
    degrade = DegradeQuality(seed=0)
    write_images(found[1], Colour(dataset), rows[:, EACH:].ravel(), degrade)
    return found


def climb(pair, args):
    """Climb the rungs of a pair; return the results."""
    source, target = folders(pair, args)
    work_dir = args.work_dir / pair
    weights = args.data / 'weights' / 'tf_efficientnet_lite0.pth'
    command = [sys.executable, TOOLS / 'ladder.py', '--source', source, '--target', target]
    command += ['--target-labels', 5]
    command += ['--backbone', 'timm:tf_efficientnet_lite0', '--checkpoint', weights]
    command += ['--image-size', args.image_size, '--work-dir', work_dir, '--jobs', 1]
    command += ['--seeds', *args.seeds, '--rungs', *RUNGS]
    command += ['--cfg-options', f'train_cfg.max_epochs={PAIRS[pair]}']
    subprocess.run(list(map(str, command)), check=True)
    return json.loads((work_dir / 'results.json').read_text())['rungs']


def row_of(rungs):
    """Return what is compared: by rung, target, source and what was forgotten, by seed."""
    found = {rung['name']: rung for rung in rungs}
    before = found['source_only']['domains']
    return {
        name: dict(
            target=found[name]['domains']['target']['accuracy_by_seed'],
            source=found[name]['domains']['source']['accuracy_by_seed'],
            forgot=[
                old - new
                for old, new in zip(
                    before['source']['accuracy_by_seed'],
                    found[name]['domains']['source']['accuracy_by_seed'],
                )
            ],
            trainable=found[name]['trainable_parameters'],
        )
        for name in ('source_only', *RUNGS)
    }


def lines_of(rows):
    """Return the lines of the page, each rung against fine_tune."""
    lines = []
    for pair, row in rows.items():
        tuned = row['fine_tune']
        for rung, ours in ((name, row[name]) for name in RUNGS[1:]):
            for what, unit in {'target': '%', 'source': '%', 'forgot': 'points'}.items():
                about = 'of the source forgotten' if what == 'forgot' else f'{what} accuracy'
                means = [fmean(each[what]) for each in (ours, tuned)]
                lines.append(harness.line(f'{pair}, {rung}: {about}', *means, unit, 1.0))
            # Adam keeps a gradient and two moments of each weight that trains.
            megabytes = [12 * each['trainable'] / 2**20 for each in (ours, tuned)]
            if megabytes[0] != megabytes[1]:
                what = f'{pair}, {rung}: gradients and moments'
                lines.append(harness.line(what, *megabytes, 'MiB', 1.0))
    return lines


def main():
    """Measure."""
    args = parse_args()
    rows = {}
    for pair in args.pairs:
        rows[pair] = row_of(climb(pair, args))
        harness.write(dict(rows=rows, lines=lines_of(rows)), args)


if __name__ == '__main__':
    main()
