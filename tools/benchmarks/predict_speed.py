"""What does a table of predictions cost beside a bare loop of the same network and loader?

    python tools/benchmarks/predict_speed.py --images data/pacs --count 1000

Both read the same files by the same pipeline, in this process, in turn; times are those that the
process computed for. The bare loop keeps the likeliest class; predict writes the whole table, its
summary and its page.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import harness
import torch


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--images', default='data/pacs')
    parser.add_argument('--count', type=int, default=1000)
    parser.add_argument('--model', default='tf_efficientnet_lite0')
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--turns', type=int, default=3)
    harness.add_out(parser)
    return parser.parse_args()


def write_model(folder, args):
    """Write a config and a checkpoint with random weights."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    from tl_plugin.analysis.features import build_model

    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=args.size),
        dict(type='PackInputs'),
    ]
    backbone = dict(type='PooledTimmBackbone', model_name=args.model)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        width = MODELS.build(dict(backbone)).num_features
    cfg = Config(
        dict(
            model=dict(
                type='AdaptationClassifier',
                channels_last=True,
                backbone=backbone,
                head=dict(type='LinearClsHead', num_classes=7, in_channels=width),
                data_preprocessor=dict(num_classes=7, mean=[127.5] * 3, std=[127.5] * 3),
            ),
            test_dataloader=dict(
                batch_size=args.batch_size, dataset=dict(type='CustomDataset', pipeline=pipeline)
            ),
            custom_imports=dict(imports=['tl_plugin']),
        )
    )
    cfg.dump(str(folder / 'config.py'))
    state = build_model(cfg, weights=False).state_dict()
    classes = [f'class {number}' for number in range(7)]
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=state, meta=meta), folder / 'model.pth')
    return cfg


def main():
    """Measure both in turn."""
    args = parse_args()
    from mmengine.logging import MMLogger

    from tl_plugin.apis import list_images, predict
    from tl_plugin.apis.classifier import load_classifier
    from tl_plugin.apis.loading import image_loader

    MMLogger.get_instance('benchmark', log_level='WARNING')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cfg = write_model(folder, args)
        names = list(list_images(args.images))
        step = max(len(names) // args.count, 1)
        names = names[::step][: args.count]
        (folder / 'images.txt').write_text('\n'.join(str(Path(n).absolute()) for n in names))
        classifier = load_classifier(cfg, folder / 'model.pth')

        def bare():
            found = []
            loader = image_loader(
                names, classifier.pipeline(), range(len(names)), args.batch_size, 0
            )
            with torch.inference_mode():
                for batch in loader:
                    images = classifier.model.data_preprocessor(dict(inputs=batch.inputs))['inputs']
                    found.append(classifier.model(images, mode='tensor').argmax(1))
            return torch.cat(found)

        def ours():
            predict(
                cfg,
                folder / 'model.pth',
                folder / 'images.txt',
                folder / 'out.csv',
                overwrite=True,
                workers=0,
            )

        seconds = harness.in_turn(dict(ours=ours, bare=bare), args.turns, warmup=1)
    line = harness.line(
        f'{len(names)} images of {args.size} px through {args.model}, against a bare loop',
        seconds['ours'],
        seconds['bare'],
        unit='s',
        scale=1.0,
    )
    harness.write(dict(lines=[line]), args)


if __name__ == '__main__':
    main()
