"""Test-time adaptation on degraded digits, in shuffled and in sorted streams.

python tools/ladder.py configs/digits/ladder.py --rungs source_only --seeds 0 1 2
python tools/benchmarks/test_time.py work_dirs/ladder/source_only/seed_*/epoch_20.pth
"""

import argparse
from statistics import fmean

import harness
import numpy as np
import torch

from tl_plugin.analysis.features import build_model
from tl_plugin.datasets.degrade_quality import CORRUPTIONS, DegradeQuality
from tl_plugin.datasets.digits import DigitsDataset
from tl_plugin.launch.configs import load_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoints', nargs='+', help='source models of configs/digits')
    parser.add_argument('--methods', nargs='+', default=['tent', 'sar'])
    parser.add_argument('--severity', type=int, default=3)
    parser.add_argument('--batch-size', type=int, default=50)
    harness.add_out(parser)
    return parser.parse_args()


def images_of(name, severity):
    """Read the 250 test digits: clean, from the field, with one corruption or with all."""
    dataset = DigitsDataset(quality='field' if name == 'field' else 'clean', split='test')
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    found = [info['img'] for info in infos]
    if name not in ('clean', 'field'):
        chosen = None if name == 'all' else [name]
        degrade = DegradeQuality(corruptions=chosen, severity=severity, seed=0)
        found = [
            degrade(dict(img=image, img_path=f'{number}.png', sample_idx=number))['img']
            for number, image in enumerate(found)
        ]
    images = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([info['gt_label'] for info in infos])


@torch.no_grad()
def accuracy(model, images, labels, order, batch_size):
    right = 0
    for start in range(0, len(labels), batch_size):
        rows = order[start : start + batch_size]
        inputs = model.data_preprocessor(dict(inputs=images[rows]), False)['inputs']
        predicted = torch.cat([sample.pred_label for sample in model.predict(inputs)])
        right += int((predicted == labels[rows]).sum())
    return 100 * right / len(labels)


def main():
    args = parse_args()
    data = {
        name: images_of(name, args.severity) for name in ('clean', 'field', 'all', *CORRUPTIONS)
    }
    rows = {}
    for checkpoint in args.checkpoints:
        for method in ('none', *args.methods):
            overlays = [] if method == 'none' else [method]
            cfg = load_config(
                'configs/digits/source_only.py', overlays, {'load_from': str(checkpoint)}
            )
            model = build_model(cfg)
            start = {name: value.clone() for name, value in model.state_dict().items()}
            for name, (images, labels) in data.items():
                shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
                for order, rank in (
                    ('shuffled', shuffled),
                    ('sorted', labels.argsort(stable=True)),
                ):
                    model.load_state_dict(start)
                    if overlays:
                        model.begin_adaptation()
                    found = accuracy(model, images, labels, rank, args.batch_size)
                    row = rows.setdefault(f'{name}, {order}', {})
                    row.setdefault(method, []).append(found)
    worst = {
        method: min(
            now - before for row in rows.values() for now, before in zip(row[method], row['none'])
        )
        for method in args.methods
    }
    lines = [
        harness.line(f'{method}: {what}', fmean(row[method]), fmean(row['none']), '% right', 1.0)
        for what, row in rows.items()
        for method in args.methods
    ]
    harness.write(dict(severity=args.severity, worst_in_points=worst, rows=rows, lines=lines), args)


if __name__ == '__main__':
    main()
