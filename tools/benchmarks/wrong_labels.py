"""What do strategies for wrong labels gain, and what do they cost where none is wrong?

    python tools/benchmarks/wrong_labels.py --out work_dirs/wrong_labels.json

A fifth of the labels of the clean digits in configs/digits is made wrong, in three ways; each
strategy is trained on the same wrong labels, as `tools/train.py --strategy` does, and measured at
its last iteration on the config's clean test images. What trains is a head of two layers on frozen
random convolutions, whose features are computed once, so that a run takes seconds and learns wrong
labels by heart. What is finished is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path
from statistics import fmean

import harness

ROOT = Path(__file__).resolve().parents[2]
#: Name in the table -> strategies and options.
WAYS = {
    'plain': ([], {}),
    'label_smoothing': (['label_smoothing'], {}),
    'robust_loss': (['robust_loss'], {}),
    'robust_loss, symmetric': (['robust_loss'], {'model.head.loss.kind': 'symmetric'}),
    'early_learning': (['early_learning'], {}),
    'co_teaching': (['co_teaching'], {}),
    'weighted_labels': (['weighted_labels'], {}),
}
#: In the place of the config's.
SMALL = {
    'model.backbone': dict(_delete_=True, type='DANNDigitsBackbone'),
    'model.neck': None,
    'model.head': dict(
        _delete_=True,
        type='StackedLinearClsHead',
        num_classes=10,
        in_channels=768,
        mid_channels=[256],
        norm_cfg=None,
        loss=dict(type='CrossEntropyLoss'),
    ),
    'train_cfg.max_epochs': 40,
    'param_scheduler.T_max': 40,
}
CROP = [dict(type='CenterCrop', crop_size=28), dict(type='PackInputs')]
NOISE = ('none', 'symmetric', 'pairs', 'instance')


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--config', default=str(ROOT / 'configs/digits/source_only.py'))
    parser.add_argument('--noise', nargs='+', choices=NOISE, default=list(NOISE))
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    parser.add_argument('--rate', type=float, default=0.2)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/wrong_labels'))
    harness.add_out(parser)
    return parser.parse_args()


def noisy_dataset(dataset, kind, rate, seed):
    """Return a training data set's config with wrong labels, and how many are."""
    import numpy as np
    from mmpretrain.registry import DATASETS

    from tl_plugin.intake.images import ImageItem
    from tl_plugin.intake.label_noise import noisy_labels

    built = DATASETS.build(dict(dataset, pipeline=[]))
    classes = built.metainfo['classes']
    infos = [built.get_data_info(number) for number in range(len(built))]
    items = [ImageItem(str(n), classes[int(info['gt_label'])]) for n, info in enumerate(infos)]
    pixels = np.stack([info['img'].ravel() for info in infos]) / 255.0
    given = noisy_labels(items, rate, kind, pixels, seed)
    changes = [[n, new] for n, (item, new) in enumerate(zip(items, given)) if new != item.label]
    return dict(type='CorrectedLabels', dataset=dataset, changes=changes), len(changes)


def judged(cfg, folder, seed):
    """Write what check_labels finds of the training images, and return its table."""
    from tl_plugin.analysis.label_inputs import check_domain
    from tl_plugin.analysis.label_report import TABLE_NAME, write_label_report
    from tl_plugin.intake.any_data import read_data

    table = folder / TABLE_NAME
    if not table.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cfg.dump(folder / 'config.py')
        domain = read_data(str(folder / 'config.py'))
        train = domain.with_items([item for item in domain.items if item.split == 'train'])
        write_label_report(check_domain(train, folder, processes=1, seed=seed), train, folder)
    return str(table)


def measure(args, kind, way, seed):
    """Train on wrong labels and return the accuracy on clean test images."""
    from mmengine.registry import DefaultScope

    from tl_plugin.launch.configs import load_config
    from tl_plugin.launch.runs import build_runner, prepare
    from tl_plugin.strategies import apply_strategies

    cfg, wrong = load_config(args.config), 0
    cfg.merge_from_dict(SMALL)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline = CROP
    if kind != 'none':
        dataset = cfg.train_dataloader.dataset.to_dict()
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            cfg.train_dataloader.dataset, wrong = noisy_dataset(dataset, kind, args.rate, seed)
    table = judged(cfg, args.work_dir / 'judged' / f'{kind}_{seed}', seed)
    strategies, options = WAYS[way]
    cfg = apply_strategies(cfg, ['feature_extraction_cached', *strategies])
    cfg.merge_from_dict(options)
    for hook in cfg.custom_hooks:
        if hook.type == 'LabelWeightsHook':
            hook.file = table
    for name in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[name] = None
    cfg.test_cfg = dict()
    cfg.default_hooks.checkpoint = None
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'ERROR'
    cfg._format_python_code = False  # which takes longer than training here
    cfg.work_dir = str(args.work_dir / 'runs' / f'{kind}_{way}_{seed}'.replace(', ', '_'))
    cfg.experiment_name = Path(cfg.work_dir).name
    runner = build_runner(prepare(cfg))
    runner.train()
    return dict(wrong=wrong, accuracy=runner.test()['accuracy/top1'])


def main():
    """Measure what is left to measure, and write all of it."""
    args = parse_args()
    kept = args.work_dir / 'measured.json'
    measured = json.loads(kept.read_text()) if kept.is_file() else {}
    cases = [(s, k, w) for s in args.seeds for k in args.noise for w in args.ways]
    for seed, kind, way in cases:
        case = f'{kind}; {way}; {seed}'
        if case not in measured:
            measured[case] = measure(args, kind, way, seed)
            gc.freeze()  # data sets collect garbage, which takes longer than training here
            args.work_dir.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(measured, indent=2))
            print(case, measured[case], file=sys.stderr, flush=True)
    lines = []
    for kind in args.noise:
        means = {
            way: fmean(measured[f'{kind}; {way}; {seed}']['accuracy'] for seed in args.seeds)
            for way in args.ways
        }
        for way in args.ways[1:]:
            what = (
                f'digits, {args.rate:.0%} {kind} wrong labels'
                if kind != 'none'
                else ('digits, no wrong labels')
            )
            what = f'{what}: {way} and plain, {len(args.seeds)} seeds'
            lines.append(harness.line(what, means[way], means['plain'], unit='%', scale=1))
    harness.write(dict(what=__doc__.splitlines()[0], lines=lines, measured=measured), args)


if __name__ == '__main__':
    main()
