"""Test-time adaptation on targets and corruptions, in shuffled and in sorted streams.

python tools/ladder.py configs/digits/ladder.py --rungs source_only --seeds 0 1 2
python tools/benchmarks/test_time.py work_dirs/ladder/source_only/seed_*/epoch_20.pth

With the ladders that recommendations.py --no-target-labels --whole-rungs left in a folder, the same
on the source models of these pairs:

python tools/benchmarks/test_time.py --whole-rungs work_dirs/recommendations/whole_rungs
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

import cv2
import harness
import numpy as np
import torch
from pairs import PAIRS, side_of
from whole_rungs import ORDER, folder_of

from tl_plugin.analysis.features import build_model
from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
from tl_plugin.datasets.digits import DigitsDataset
from tl_plugin.launch.configs import load_config

ORDERS = ('shuffled', 'sorted')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoints', nargs='*', help='source models of configs/digits')
    parser.add_argument('--whole-rungs', type=Path, help='folder of the ladders of eight pairs')
    parser.add_argument('--methods', nargs='+', default=['tent', 'sar'])
    parser.add_argument('--severity', type=int, default=3)
    parser.add_argument('--batch-size', type=int, default=50)
    harness.add_out(parser)
    return parser.parse_args()


def degraded(images, severity, corruptions=None):
    """Degrade images, by all corruptions where none is named."""
    change = DegradeQuality(corruptions=corruptions, severity=severity, seed=0)
    return [
        change(dict(img=np.ascontiguousarray(image), img_path=f'{n}.png', sample_idx=n))['img']
        for n, image in enumerate(images)
    ]


def tensors(images, labels):
    """Return images, (N, 3, H, W), and labels."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def with_corruptions(images, labels, severity):
    """Return name of a corruption -> images with it, and labels."""
    return {
        name: tensors(degraded(images, severity, [name]), labels) for name in sorted(CORRUPTIONS)
    }


def digits(severity):
    """Return name -> images and labels of the 250 test digits."""

    def read(quality):
        dataset = DigitsDataset(quality=quality, split='test')
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        return [info['img'] for info in infos], [int(info['gt_label']) for info in infos]

    images, labels = read('clean')
    return {
        'clean': tensors(images, labels),
        'field': tensors(*read('field')),
        'all': tensors(degraded(images, severity), labels),
        **with_corruptions(images, labels, severity),
    }


def pair_data(folder, side, severity):
    """Return name -> images and labels of a pair's test images, cut out of the middle."""

    def read(paths):
        for path in paths:
            image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            top, left = ((length - side) // 2 for length in image.shape[:2])
            yield image[top : top + side, left : left + side]

    known = json.loads((folder / 'labels.json').read_text())
    target = sorted((folder / 'images/target/test').glob('*.png'))
    source = sorted((folder / 'images/source').glob('*/*/*.png'))
    source = [path for path in source if path.parts[-3] != 'train']
    labels = [int(path.parent.name.split()[-1]) for path in source]
    images = [*read(source)]
    return {
        'target': tensors([*read(target)], [known['/'.join(p.parts[-2:])] for p in target]),
        'source': tensors(images, labels),
        **with_corruptions(images, labels, severity),
    }


def cases(args):
    """Yield what is measured: a name for the rows, a config, a checkpoint and the data."""
    if args.checkpoints:
        data = digits(args.severity)
        for checkpoint in args.checkpoints:
            yield '', 'configs/digits/source_only.py', checkpoint, data
    for pair in ORDER if args.whole_rungs else ():
        folder = folder_of(pair, args.whole_rungs)
        (run,) = (folder / 'ladder/source_only').glob('seed_0')
        data = pair_data(folder, side_of(PAIRS[pair][0]), args.severity)
        yield f'{pair}: ', run / 'config.py', next(run.glob('epoch_*.pth')), data


@torch.no_grad()
def accuracy(model, images, labels, order, batch_size):
    right = 0
    for start in range(0, len(labels), batch_size):
        rows = order[start : start + batch_size]
        inputs = model.data_preprocessor(dict(inputs=images[rows]), False)['inputs']
        predicted = torch.cat([sample.pred_label for sample in model.predict(inputs)])
        right += int((predicted == labels[rows]).sum())
    return 100 * right / len(labels)


def shown(rows):
    """Return the rows of the table: of a pair, one for all its corruptions."""
    found = {}
    for what, row in rows.items():
        pair, _, data = what.rpartition(': ')
        name, order = data.split(', ')
        name = 'source, each corruption' if pair and name in CORRUPTIONS else name
        about = f'{pair}: {name}, {order}' if pair else what
        for method, values in row.items():
            found.setdefault(about, {}).setdefault(method, []).extend(values)
    return found


def main():
    args = parse_args()
    rows = {}
    for about, config, checkpoint, data in cases(args):
        for method in ('none', *args.methods):
            overlays = [] if method == 'none' else [method]
            cfg = load_config(str(config), overlays, {'load_from': str(checkpoint)})
            model = build_model(cfg)
            start = {name: value.clone() for name, value in model.state_dict().items()}
            for name, (images, labels) in data.items():
                shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
                for order, rank in zip(ORDERS, (shuffled, labels.argsort(stable=True))):
                    model.load_state_dict(start)
                    if overlays:
                        model.begin_adaptation()
                    found = accuracy(model, images, labels, rank, args.batch_size)
                    row = rows.setdefault(f'{about}{name}, {order}', {})
                    row.setdefault(method, []).append(found)
        write(rows, args)  # after each model, for all together take an hour


def write(rows, args):
    """Write what has been measured."""
    worst = {
        f'{method}, {order}': min(
            now - before
            for name, row in rows.items()
            for now, before in zip(row[method], row['none'])
            if name.endswith(order)
        )
        for method in args.methods
        for order in ORDERS
    }
    lines = [
        harness.line(f'{method}: {what}', fmean(row[method]), fmean(row['none']), '% right', 1.0)
        for what, row in shown(rows).items()
        for method in args.methods
    ]
    lines += [
        dict(
            what=f'{what}: worst against the source model',
            ours=points,
            plain=None,
            unit='points',
            ratio=None,
        )
        for what, points in worst.items()
    ]
    harness.write(dict(severity=args.severity, worst_in_points=worst, rows=rows, lines=lines), args)


if __name__ == '__main__':
    main()
