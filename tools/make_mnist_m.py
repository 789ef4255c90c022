"""Make MNIST-M out of MNIST and a folder of photographs, as the DANN paper does."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from arguments import seed

from tl_plugin.launch.mistakes import run_main


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--mnist', type=Path, required=True, help='folder with the four IDX files of MNIST'
    )
    parser.add_argument(
        '--photographs', type=Path, required=True, help='folder of photographs for the train split'
    )
    parser.add_argument(
        '--test-photographs',
        type=Path,
        help='folder of other photographs for the test split; without it a fifth of the first '
        'folder is kept for it, so that no photograph is in both splits',
    )
    parser.add_argument('--out', type=Path, default=Path('data/mnist_m'), help='where to write')
    parser.add_argument('--seed', type=seed, default=0, help='draws the patches')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmpretrain.datasets import MNIST

    from tl_plugin.datasets.mnist_m import blend_into_photographs, load_photographs
    from tl_plugin.reliability.files import write_whole

    photographs = load_photographs(args.photographs)
    if args.test_photographs:
        parts = {'train': photographs, 'test': load_photographs(args.test_photographs)}
    else:
        parts = {
            'train': [photo for i, photo in enumerate(photographs) if i % 5],
            'test': photographs[::5],
        }
    for number, (split, photos) in enumerate(parts.items(), start=2 * args.seed):
        # mmpretrain's MNIST goes by test_mode; its split alone always reads the train images.
        test = split == 'test'
        data = MNIST(data_root=str(args.mnist), split=split, test_mode=test, download=False)
        items = [data.get_data_info(index) for index in range(len(data))]
        digits = np.stack([np.asarray(item['img']) for item in items])
        labels = np.array([item['gt_label'] for item in items])
        images = blend_into_photographs(digits, photos, number)
        content = io.BytesIO()
        np.savez(content, images=images, labels=labels)
        write_whole(args.out / f'{split}.npz', content.getbuffer())
        print(f'{args.out / split}.npz: {len(images)} digits in {len(photos)} photographs')


if __name__ == '__main__':
    run_main(main)
