"""Chooses to how many neighbours frozen_alignment's labels spread, each pair on the other pairs.

Features of an EfficientNet-Lite0 with ImageNet's weights: the PACS domains as configs/pacs reads
them, a thousand images of the digits and of MNIST as without_labels.py does. On each pair the last
layer is fitted with each number of neighbours. The best of several pairs is the one with the
highest sum of target and source accuracy: a point lost on the source counts as one gained on the
target. It is chosen without the pair whose row it stands in, for the overlay on all pairs, for
configs/pacs on those of PACS. Features and rows are kept: the same command goes on.

    python tools/benchmarks/frozen_neighbours.py --data data
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

import harness
import numpy as np
import torch
import without_labels
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS

from tl_plugin.functional import frozen_alignment
from tl_plugin.reliability.files import write_json, write_whole
from tl_plugin.strategies import configs_dir

NEIGHBOURS = (0, 3, 5, 10, 20)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data'), help='holds pacs and mnist')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/frozen_neighbours'))
    harness.add_out(parser)
    return parser.parse_args()


def network(data):
    import timm

    model = timm.create_model('tf_efficientnet_lite0', num_classes=0).eval()
    weights = torch.load(data / 'weights' / 'tf_efficientnet_lite0.pth', weights_only=True)
    model.load_state_dict(weights, strict=False)
    return model


def read_pacs(name, data):
    """Return images and labels of a domain, as configs/pacs tests them, and the held-out rows."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(configs_dir() / 'pacs' / 'frozen_alignment.py', format_python_code=False)
    dataset = {**cfg.test_cfg.dataloaders.target.dataset, 'data_root': str(data / 'pacs' / name)}
    loader = dict(
        batch_size=50, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset
    )
    batches = Runner.build_dataloader(
        {**cfg.test_dataloader, **loader, 'num_workers': 0, 'persistent_workers': False}
    )
    held = DATASETS.build({**cfg.val_dataloader.dataset, 'dataset': dataset})
    rows = [held._get_ori_dataset_idx(row) for row in range(len(held))]
    found = (
        (
            torch.stack(list(batch['inputs'])).flip(1),
            [int(s.gt_label) for s in batch['data_samples']],
        )
        for batch in batches
    )
    return found, rows


def read_others(name, data):
    images, labels = without_labels.load_domain(name, data)
    starts = range(0, len(labels), 50)
    found = (
        (torch.from_numpy(images[at : at + 50]).permute(0, 3, 1, 2), labels[at : at + 50])
        for at in starts
    )
    return found, range(0, len(labels), 5)


@torch.no_grad()
def features_of(name, model, args):
    """Return a domain's features, their mean with those of mirror images, labels, held-out rows."""
    path = args.work_dir / f'{name}.npz'
    if not path.is_file():
        is_pacs = (args.data / 'pacs' / name).is_dir()
        plain, mirrored, labels = [], [], []
        batches, held = (read_pacs if is_pacs else read_others)(name, args.data)
        for images, found in batches:
            images = images.float().sub(127.5).div(127.5)
            plain.append(model(images))
            mirrored.append((plain[-1] + model(images.flip(-1))) / 2)
            labels += [*found]
        arrays = dict(plain=torch.cat(plain).numpy(), mean=torch.cat(mirrored).numpy())
        arrays |= dict(labels=np.array(labels), held=np.array([*held]))
        write_whole(path, without_labels.as_npz(arrays))
        print(f'features of {name}: {len(labels)} images', flush=True)
    with np.load(path) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def accuracies(source, target, neighbours):
    """Return the accuracy on the target and on the held-out source, in percent."""
    train = torch.ones(len(source['labels']), dtype=torch.bool)
    train[source['held']] = False
    labels, classes = source['labels'][train], int(source['labels'].max()) + 1
    found = frozen_alignment(
        source['mean'][train], labels, target['mean'], classes, neighbours=neighbours
    )
    weight, bias = found.linear_layer(target['mean'])

    def accuracy(features, labels):
        right = (features @ weight.T + bias).argmax(1) == labels
        return round(100 * right.double().mean().item(), 2)

    held = source['held']
    return dict(
        target=accuracy(target['plain'], target['labels']),
        source=accuracy(source['plain'][held], source['labels'][held]),
    )


def best(rows):
    """Return the number of neighbours with the highest sum of both accuracies over the rows."""
    sums = {n: fmean(sum(row[n].values()) for row in rows) for n in NEIGHBOURS}
    return max(sums, key=sums.get)


def lines_of(rows):
    """Return what is chosen for each pair on the others, of all and of PACS, and the means."""
    lines = []
    for group in ('', 'PACS'):
        pairs = {pair: row for pair, row in rows.items() if pair.startswith(group)}
        for pair, row in pairs.items():
            n = best([other for name, other in pairs.items() if name != pair])
            what = f'{pair}: {n} neighbours, chosen on the {len(pairs) - 1} other pairs {group}'
            lines += [_line(what.strip(), [row], n, of) for of in ('target', 'source')]
        for n in NEIGHBOURS[1:]:
            what = f'mean of {len(pairs)} pairs {group}'.strip() + f': {n} neighbours'
            lines += [_line(what, [*pairs.values()], n, of) for of in ('target', 'source')]
    return lines


def _line(what, rows, n, of):
    means = [fmean(row[k][of] for row in rows) for k in (n, 0)]
    return harness.line(f'{what}, against none, {of}', *means, unit='%', scale=1)


def main():
    args = parse_args()
    torch.set_num_threads(1)
    without_labels.IMAGES = 1000
    kept = args.work_dir / 'rows.json'
    rows = json.loads(kept.read_text(encoding='utf-8')) if kept.is_file() else {}
    rows = {pair: {int(n): found for n, found in row.items()} for pair, row in rows.items()}
    for pair, names in without_labels.PAIRS.items():
        if pair not in rows:
            model = network(args.data)
            source, target = (features_of(name, model, args) for name in names)
            rows[pair] = {n: accuracies(source, target, n) for n in NEIGHBOURS}
            write_json(kept, rows)
            print(pair, rows[pair], flush=True)
    harness.write(dict(rows=rows, lines=lines_of(rows)), args)


if __name__ == '__main__':
    main()
