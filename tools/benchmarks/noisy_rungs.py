"""What wrong source labels cost, and how much of it the rungs cleaned and robust win back.

    python tools/benchmarks/noisy_rungs.py --out work_dirs/noisy_rungs.json

A fifth of the training labels of scikit-learn's digits, of 1,000 images of MNIST (data/mnist) and
of PACS photo (data/pacs, weights in data/weights) is made wrong, and the rungs are trained that the
ladder adds, beside source_only and source_only on the right labels. Accuracy is that on source test
images, whose labels are right. LeNet-5 learns the digits, and of the photographs' network the last
layer alone learns, as in a quick look. What is finished is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from itertools import product
from pathlib import Path
from statistics import fmean

import harness
from mmengine.config import Config
from mmengine.logging import MMLogger

RATE = 0.2


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', nargs='+', choices=DATA, default=list(DATA))
    parser.add_argument('--data-root', type=Path, default=Path('data'))
    parser.add_argument('--weights', default='data/weights/tf_efficientnet_lite0.pth')
    parser.add_argument('--kind', default='symmetric', choices=('symmetric', 'pairs'))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/noisy_rungs'))
    harness.add_out(parser)
    return parser.parse_args()


def lenet(train, test, epochs):
    """Train mmpretrain's LeNet-5, long enough for it to learn wrong labels, too."""
    from tl_plugin.launch.configs import load_config

    loader = dict(num_workers=0, persistent_workers=False)
    cfg = load_config('mmpretrain::lenet/lenet5_mnist.py')
    cfg.merge_from_dict(
        dict(
            # As features and a last layer, where it is one classifier.
            model=dict(
                backbone=dict(num_classes=-1),
                neck=dict(_delete_=True, type='GlobalAveragePooling'),
                head=dict(
                    _delete_=True, type='LinearClsHead', num_classes=10, in_channels=120, topk=(1,)
                ),
            ),
            train_dataloader=dict(dataset=dict(_delete_=True, **train), batch_size=32, **loader),
            test_dataloader=dict(dataset=dict(_delete_=True, **test), **loader),
            val_dataloader=None,
            val_cfg=None,
            val_evaluator=None,
            optim_wrapper=dict(optimizer=dict(lr=0.05)),
            param_scheduler=dict(
                _delete_=True, type='CosineAnnealingLR', T_max=epochs, by_epoch=True
            ),
            train_cfg=dict(max_epochs=epochs),
            default_hooks=dict(checkpoint=dict(interval=epochs)),
            test_evaluator=dict(topk=(1,)),
        )
    )
    return cfg, False


def digits(args):
    """Take scikit-learn's digits, in 32 pixels."""
    grey = dict(type='RandomGrayscale', prob=1.0, keep_channels=False, channel_weights=(1, 1, 1))
    common = dict(type='DigitsDataset', quality='clean', pipeline=[grey, dict(type='PackInputs')])
    return lenet(dict(common, split='train'), dict(common, split='test'), epochs=25)


def mnist(args):
    """Take some of MNIST."""
    places = args.data_root / 'mnist', args.data_root / 'mnist' / 'MNIST' / 'raw'  # torchvision's
    root = str(next((p for p in places if list(p.glob('train-images*'))), places[0]))
    pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
    common = dict(type='MNIST', data_root=root, download=False, pipeline=pipeline)
    train = dict(common, split='train', indices=1000)
    return lenet(train, dict(common, split='test', indices=2000), epochs=12)


def pacs_photo(args):
    """Photographs and the last layer of EfficientNet-Lite0, as a quick look trains it."""
    from tl_plugin.intake.config_writer import config_from_data
    from tl_plugin.ladder.quick import make_quick
    from tl_plugin.launch.configs import load_config

    pacs = args.data_root / 'pacs'
    written = config_from_data(
        str(pacs / 'photo'),
        str(pacs / 'cartoon'),
        'timm:tf_efficientnet_lite0',
        args.work_dir / 'pacs_photo',
        checkpoint=args.weights,
        image_size=64,
    )
    cfg = make_quick(load_config(written), 64, '')
    # Runs on the same images and labels find the features of the one before.
    cfg.merge_from_dict({'train_cfg.cache_dir': str(args.work_dir / 'features')})
    cfg.merge_from_dict({f'{split}_dataloader.num_workers': 0 for split in ('train', 'test')})
    cfg.merge_from_dict(
        {f'{split}_dataloader.persistent_workers': False for split in ('train', 'test')}
    )
    return cfg, True


DATA = dict(digits=digits, mnist=mnist, pacs_photo=pacs_photo)


def with_noise(cfg, kind, seed):
    """Make a fifth of the training labels wrong."""
    from tl_plugin.intake.any_data import read_datasets
    from tl_plugin.intake.label_corrections import Corrections, corrected_dataset
    from tl_plugin.intake.label_noise import noisy_labels

    dataset = cfg.train_dataloader.dataset
    items = read_datasets(dict(train=dataset), cfg, 'the source').items
    labels = noisy_labels(items, RATE, kind, seed=seed)
    wrong = Corrections('noise', {item.name: label for item, label in zip(items, labels)})
    noisy = Config(cfg.to_dict())
    noisy.train_dataloader.dataset = corrected_dataset(dataset, 'train', wrong)
    return noisy


def measure(cfg, weights, seed, folder):
    """Train source_only and the rungs that are added; return the accuracy of each."""
    from tl_plugin.ladder.noisy_labels import add_label_rungs
    from tl_plugin.ladder.ready_config import ready_config
    from tl_plugin.ladder.selection import read_rungs
    from tl_plugin.launch.runs import build_runner, prepare

    # What the ladder does by itself, and whatever that is, both rungs.
    _, left_out = add_label_rungs(cfg, None, folder, lambda: weights)
    found = dict(added='cleaned' not in left_out)
    names = ['source_only', 'cleaned', 'robust']
    try:
        cfg, _ = add_label_rungs(cfg, names, folder, lambda: weights)
    except ValueError as error:
        found['nothing to clean'] = str(error)
        cfg, _ = add_label_rungs(cfg, ['robust'], folder, lambda: weights)
        names.remove('cleaned')
    rungs = read_rungs(cfg.ladder)
    for name in names:
        ready = ready_config(cfg, rungs[name], seed)
        ready.test_cfg = dict()
        runner = build_runner(prepare(ready, work_dir=folder / name, validate=False))
        runner.train()
        found[name] = runner.test()['accuracy/top1']
        shutil.rmtree(folder / name)
    found.setdefault('cleaned', found['source_only'])
    return found


def lines_of(measured, data, kind):
    """Compare the means over the seeds."""
    lines = []
    for name in data:
        by_noise = {
            noise: [
                found for case, found in measured.items() if case.startswith(f'{name}, {noise},')
            ]
            for noise in ('none', kind)
        }
        if not all(by_noise.values()):
            continue
        mean = {
            (noise, rung): fmean(found[rung] for found in cases)
            for noise, cases in by_noise.items()
            for rung in ('source_only', 'cleaned', 'robust')
        }
        right, wrong = mean['none', 'source_only'], mean[kind, 'source_only']
        best = max(mean[kind, 'cleaned'], mean[kind, 'robust'])
        seeds = len(by_noise[kind])
        counted = f'{seeds} seed{"s" * (seeds > 1)}'
        what = f'{name}, {RATE:.0%} wrong labels ({kind}, {counted})'
        for rung in ('source_only', 'cleaned', 'robust'):
            about = f'{what}: {rung}, against source_only on the right labels'
            lines.append(harness.line(about, mean[kind, rung], right, '%', 1))
        about = f'{what}: points won back by the better one, of those that they cost'
        lines.append(harness.line(about, best - wrong, right - wrong, '', 1))
        for rung in ('cleaned', 'robust'):
            about = f'{name}, no wrong label: {rung}, against source_only'
            lines.append(harness.line(about, mean['none', rung], right, '%', 1))
        added = sum(found['added'] for found in by_noise['none'])
        about = f'{name}, no wrong label: climbs to which the ladder adds the two'
        lines.append(harness.line(about, added, len(by_noise['none']), '', 1))
    return lines


def main():
    args = parse_args()
    kept = args.work_dir / 'measured.json'
    measured = json.loads(kept.read_text()) if kept.is_file() else {}
    args.work_dir.mkdir(parents=True, exist_ok=True)
    for seed, name, noise in product(args.seeds, args.data, ('none', args.kind)):
        case = f'{name}, {noise}, seed {seed}'
        if case in measured:
            continue
        cfg, weights = DATA[name](args)
        cfg = cfg if noise == 'none' else with_noise(cfg, noise, seed)
        folder = args.work_dir / f'{name}_{noise}_{seed}'
        measured[case] = measure(cfg, weights, seed, folder)
        kept.write_text(json.dumps(measured, indent=2))
        print(case, json.dumps(measured[case]), file=sys.stderr, flush=True)
    lines = lines_of(measured, args.data, args.kind)
    harness.write(dict(what=__doc__.splitlines()[0], lines=lines, measured=measured), args)


if __name__ == '__main__':
    MMLogger.get_instance('noisy_rungs', log_level=logging.WARNING)
    main()
