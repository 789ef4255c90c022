"""What every journey needs: a user's folders of images, their commands, an independent count."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmpretrain
import numpy as np

from tests.forked import is_tool, run_tool
from tests.programs import run_program

ROOT = Path(__file__).resolve().parents[2]
#: The tools that came with mmpretrain.
STOCK_TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
SHAPES = ('circle', 'line', 'square')
#: A config of a user's that serves as ``--backbone`` and needs no weights.
THIN_RESNET = """
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
model = dict(backbone=dict(base_channels=8, stem_channels=8), head=dict(in_channels=64))
optim_wrapper = dict(optimizer=dict(lr=0.05))
"""
#: For ``--cfg-options``: starting workers takes longer than reading a few small images.
WITHOUT_WORKERS = [f'{name}_dataloader.num_workers=0' for name in ('train', 'val', 'test')]


def draw(kind: int, rng: np.random.Generator, field: bool = False, size: int = 32) -> np.ndarray:
    """Draw a dark shape on a bright ground, each kind in a hue; in the field darker and noisy.

    Args:
        kind: 0 a disc, 1 a line across the image, 2 a square.
        rng: Of colour, place and noise.
        field: Whether it is an image of the target.
        size: Side of the image, in pixels.
    """
    image = np.full((size, size, 3), rng.integers(150, 255, 3), np.uint8)
    color = rng.integers(0, 60, 3)
    color[kind] += 80
    color = tuple(int(value) for value in color)
    x, y = (int(value) for value in rng.integers(size * 0.3, size * 0.7, 2))
    radius = int(rng.integers(size // 6, size // 3))
    if kind == 0:
        cv2.circle(image, (x, y), radius, color, -1)
    elif kind == 1:
        cv2.line(image, (0, y), (size - 1, x), color, 3)
    else:
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), color, -1)
    if field:
        image = np.clip(image * 0.5 + rng.normal(0, 15, image.shape), 0, 255).astype(np.uint8)
    return image


def write_images(folder: Path, kinds: Sequence[int], seed: int, field: bool = False) -> list[Path]:
    """Write one image of each kind in ``kinds``, as ``folder/000.png`` and on."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{number:03d}.png' for number in range(len(kinds))]
    for path, kind in zip(paths, kinds):
        cv2.imwrite(str(path), draw(kind, rng, field))
    return paths


def write_class_folders(
    folder: Path, counts: Mapping[str, int], seed: int, field: bool = False
) -> None:
    """Write ``folder/CLASS/000.png`` and on, so many of each class."""
    for kind, (name, count) in enumerate(counts.items()):
        write_images(folder / name, [kind] * count, seed + 100 * kind, field)


def run(*command: Any, cwd: Path) -> str:
    """Run a command in a user's folder; returns what it said on both channels."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    # The tools of a checkout find the package beside them, those of mmpretrain an installed one.
    env['PYTHONPATH'] = str(ROOT)
    if Path(command[0]).name.startswith('python') and Path(command[1]).suffix == '.py':
        start = run_tool if is_tool(command[1]) else run_program
        code, said = start(*command[1:], cwd=cwd, env=env)
        assert code == 0, f'{shlex.join(map(str, command))}\n{said}'
        return said
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, errors='replace'
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f'{shlex.join(map(str, command))}\n{said}'
    return said


def tool(name: str, *arguments: Any, cwd: Path) -> str:
    """Run one of this package's tools, such as ``train.py``."""
    return run(sys.executable, ROOT / 'tools' / name, *arguments, cwd=cwd)


def stock_tool(name: str, *arguments: Any, cwd: Path) -> str:
    """Run one of the tools that came with mmpretrain."""
    return run(sys.executable, STOCK_TOOLS / name, *arguments, cwd=cwd)


def proposed(command: str, *more: Any, cwd: Path) -> str:
    """Run a command exactly as a tool proposed it, with arguments of one's own behind it."""
    return run(*shlex.split(command), *more, cwd=cwd)


def read_json(path: Path) -> Any:
    """Read a JSON file that a tool wrote."""
    return json.loads(path.read_text(encoding='utf-8'))


def predict(config: Path, checkpoint: Path, images: Iterable[Path]) -> list[dict]:
    """What mmpretrain's own inferencer says of images, by none of this package's loops.

    Args:
        config: A written config.
        checkpoint: Weights for it.
        images: Files.

    Returns:
        For each image ``pred_label``, ``pred_score`` and ``pred_scores``, (K,).
    """
    model = mmpretrain.get_model(str(config), pretrained=str(checkpoint), device='cpu')
    inferencer = mmpretrain.ImageClassificationInferencer(model)
    return inferencer(list(map(str, images)), batch_size=8)


def percent(values: Sequence[bool]) -> float:
    """Share of the true ones."""
    return 100 * sum(values) / len(values)


def read_list(path: Path, labelled: bool = True) -> dict[Path, int | None]:
    """Read a list of images that a tool wrote for mmpretrain's ``CustomDataset``.

    Args:
        path: The file.
        labelled: Whether the number of a class stands behind each file.

    Returns:
        File -> class, in order; None for each where there are no classes.
    """
    lines = path.read_text(encoding='utf-8').splitlines()
    if not labelled:
        return {Path(line): None for line in lines}
    return {Path(name): int(label) for name, label in (line.rsplit(' ', 1) for line in lines)}


def share_right(found: Sequence[dict], labels: Iterable[int | None]) -> float:
    """Percent of predictions of :func:`predict` that are the labels."""
    return percent([one['pred_label'] == label for one, label in zip(found, labels)])
