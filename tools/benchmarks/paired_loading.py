"""Times a pair of loaders against one loader of the same total batch.

Both read the same JPEG files through the same pipeline with the same number of workers, passes in
turn, and nothing is done with the batches. Ours is what adaptation reads by: two replayable loaders
side by side. Writes JSON.

    python tools/benchmarks/paired_loading.py --out paired_loading.json
"""

import argparse
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from tl_plugin.engine.loops import PairedLoader
from tl_plugin.reliability.replayable_loader import ReplayableLoader
from tl_plugin.reliability.seeds import SOURCE_STREAM, TARGET_STREAM


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=384, help='of each domain')
    parser.add_argument('--image-size', type=int, default=227, help='of the files')
    parser.add_argument('--batch-size', type=int, default=24, help='of each domain')
    parser.add_argument(
        '--workers',
        type=int,
        nargs='*',
        default=[0, 1],
        help='of each of the two loaders; the one loader has twice as many',
    )
    parser.add_argument('--passes', type=int, default=5, help='timed passes of each')
    harness.add_out(parser)
    return parser.parse_args()


def write_images(folder, count, size):
    random = np.random.default_rng(0)
    for domain in ('source', 'target'):
        for index in range(count):
            path = Path(folder, domain, f'class_{index % 7}', f'{index}.jpg')
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((size, size)).save(path)


def loader(roots, batch_size, workers):
    """Build a stock loader over one folder, or over several joined."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=96),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    parts = [dict(type='CustomDataset', data_root=str(root), pipeline=pipeline) for root in roots]
    dataset = dict(type='ConcatDataset', datasets=parts) if len(parts) > 1 else parts[0]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Runner.build_dataloader(
            dict(
                dataset=dataset,
                batch_size=batch_size,
                num_workers=workers,
                drop_last=True,
                persistent_workers=workers > 0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
            ),
            seed=0,
        )


def compare(args, folder, workers):
    roots = [Path(folder, name) for name in ('source', 'target')]
    pair = PairedLoader(
        *(
            ReplayableLoader.of(loader([root], args.batch_size, workers), 0, stream)
            for root, stream in zip(roots, (SOURCE_STREAM, TARGET_STREAM))
        )
    )
    single = loader(roots, 2 * args.batch_size, 2 * workers)

    def drain(batches):
        return lambda: sum(1 for _ in batches)

    seconds = harness.in_turn(
        dict(ours=drain(pair), plain=drain(single)), args.passes, warmup=1, clock=time.perf_counter
    )
    return harness.line(
        f'pass over 2 x {args.images} images, 2 x {workers} workers',
        seconds['ours'],
        seconds['plain'],
    )


def main():
    args = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, args.images, args.image_size)
        lines = [compare(args, folder, workers) for workers in args.workers]
    harness.write(dict(batch_size=args.batch_size, passes=args.passes, lines=lines), args)


if __name__ == '__main__':
    main()
