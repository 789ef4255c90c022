"""A first look at one's own data within minutes: small images, frozen features, few rungs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from tl_plugin.analysis.features import build_model
from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.intake.backbone_choice import DEFAULT_SIZE
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.console import tool_command
from tl_plugin.reporting.progress import duration
from tl_plugin.stack.model_wrappers import evaluating

from .ready_config import ready_config
from .run_ladder import choose_rungs, has_own_weights
from .rungs import STEP_IMAGES, TWO_MODELS, Rung

#: Side of the images in a quick look, in pixels.
SIDE = 96
#: Rungs of a quick look, in order of cost; the last one needs target labels.
QUICK_RUNGS = ('source_only', 'adabn', 'frozen_alignment', 'feature_extraction')
#: The last layer alone trains, on features that are computed once.
_CACHED = ('source_only', 'feature_extraction')
_EPOCHS = 20
#: Forward and backward pass of how many images are timed, and how often.
_TIMED, _REPEATS = 8, 2
#: Passes over the validation images that the rungs take which train nothing.
_PASSES = {'adabn': 2, 'frozen_alignment': 4, 'interpolation': 12}


def quick_config(write: Callable[[Path, int | None], Path], folder: Path) -> tuple[Path, list[str]]:
    """Write the config of a quick look, and beside it that of the full climb.

    Args:
        write: Writes a config of the data into a folder, with images of a side (None: the
            network's own); returns its path. See
            :func:`tl_plugin.intake.config_writer.config_from_data`.
        folder: Of the quick look; the full config is in its ``full/``.

    Returns:
        The config, whose ``ladder.notes`` say what a quick look is and what the full climb costs;
        and the names of the rungs to climb.

    Raises:
        ValueError: If the network has no weights.
    """
    full = write(folder / 'full', None)
    cfg, rungs, *_ = choose_rungs(load_config(full))
    check_has_weights(has_own_weights(cfg))
    own = _side(cfg)
    side = quick_side(cfg, own)
    command = tool_command('ladder.py', full, '--work-dir', full.parent)
    cost = about_full_climb(cost_of_climb(cfg, rungs, own), len(rungs), command)
    path = write(folder, side)
    make_quick(load_config(path), side, cost).dump(path)
    return path, quick_rungs([rung.name for rung in rungs])


def _side(cfg: Config) -> int:
    """Return the side of the images that a config trains on, in pixels."""
    for dataset in inner_configs(cfg.train_dataloader.dataset):
        for transform in reversed(dataset.get('pipeline') or []):
            size = transform.get('crop_size', transform.get('scale'))
            size = size[0] if isinstance(size, (list, tuple)) else size
            if isinstance(size, int) and size > 0:
                return size
    return DEFAULT_SIZE


def quick_side(cfg: Config, own: int) -> int:
    """Return the side of the images of a quick look: :data:`SIDE`, if the network takes it.

    Args:
        cfg: A config of the network.
        own: The side that the network is made for, in pixels.
    """
    if own <= SIDE:
        return own
    model = build_model(cfg, weights=False)
    try:
        with evaluating(model), torch.no_grad():
            model.extract_feat(torch.zeros(2, 3, SIDE, SIDE))
    except Exception:  # whatever a network says about a size that it isn't made for
        return own
    return SIDE


def make_quick(cfg: Config, side: int, full: str) -> Config:
    """Change a config of :mod:`tl_plugin.intake.config_writer` into that of a quick look.

    Args:
        cfg: A config with small images. It isn't changed.
        side: Of these, in pixels, for the note.
        full: What the full climb is and costs, in a sentence.
    """
    quick = Config(cfg.to_dict())
    last = dict(
        train_cfg=dict(max_epochs=_EPOCHS, val_interval=_EPOCHS),
        default_hooks=dict(checkpoint=dict(interval=_EPOCHS)),
    )
    rungs = ConfigDict(quick.ladder.get('rungs') or {})
    for name in _CACHED:
        rungs[name] = dict(strategies=['feature_extraction_cached'], options=last)
    note = (
        f'A quick look: images of {side} pixels, the network as it came, of which the last layer '
        f'alone was trained. It shows the gap and what the cheapest rungs do about it. {full}'
    )
    quick.ladder.rungs = rungs
    quick.ladder.notes = [note, *(quick.ladder.get('notes') or ())]
    return quick


def check_has_weights(named: bool) -> None:
    """Refuse a network with random weights, whose frozen features say nothing.

    Args:
        named: Whether the config names weights of the network.

    Raises:
        ValueError: If it names none.
    """
    if not named:
        raise ValueError(
            '--quick trains the last layer alone, on features of a network that has been trained, '
            'and this one has no weights: give them with --checkpoint, or leave out --quick'
        )


def cost_of_climb(cfg: Config, rungs: Sequence[Rung], side: int) -> float:
    """Estimate the seconds of a full climb, one rung after the other, on the device that is here.

    Some training steps on random images are timed; the rest is multiplied out.

    Args:
        cfg: The config of the full climb.
        rungs: That it would climb.
        side: Of its images, in pixels.
    """
    step, look = _seconds_of_an_image(cfg, side)
    measured = sum(_count(cfg[f'{split}_dataloader']) for split in ('val', 'test'))
    total = 0.0
    for rung in rungs:
        # Both domains; test and validation at the end, each about as large as the source's.
        total += 2 * measured * look * _PASSES.get(rung.name, 1)
        if rung.data == TWO_MODELS or rung.name in _PASSES:
            continue
        ready = ready_config(cfg, rung, 0)
        images = _count(ready.train_dataloader) * STEP_IMAGES.get(rung.data, 1)
        epochs = ready.train_cfg.get('max_epochs') or 1
        validations = epochs // (ready.train_cfg.get('val_interval') or 1)
        total += epochs * images * step + validations * measured * look
    return total


def _seconds_of_an_image(cfg: Config, side: int) -> tuple[float, float]:
    """Time a training step and a look at an image."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = build_model(cfg, weights=False).to(device)
    images = torch.randn(_TIMED, 3, side, side, device=device)

    def step() -> None:
        features: Any = model.extract_feat(images)
        features = features[-1] if isinstance(features, (list, tuple)) else features
        features = features[-1] if isinstance(features, (list, tuple)) else features
        features.float().mean().backward()
        model.zero_grad()

    def look() -> None:
        with evaluating(model), torch.no_grad():
            model.extract_feat(images)

    model.train()
    return _fastest(step) / _TIMED, _fastest(look) / _TIMED


def _fastest(work: Any) -> float:
    found = []
    for _ in range(1 + _REPEATS):  # the first one allocates
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def _count(loader: Any) -> int:
    """Count the images of a loader's config."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return len(DATASETS.build(copy.deepcopy(loader['dataset'])))


def about_full_climb(seconds: float, rungs: int, command: str) -> str:
    """Say what the full climb costs, and how to begin it.

    >>> about_full_climb(5460, 12, 'tl-plugin ladder full/config.py')[:61]
    'The full climb of 12 rungs takes about 1 h 31 min here, one r'
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    long = f'{hours} h {minutes} min' if hours else duration(seconds)
    return (
        f'The full climb of {rungs} rungs takes about {long} here, one rung after the other (some '
        f'training steps were timed, beside whatever else runs now): {command}'
    )


def quick_rungs(names: Sequence[str]) -> list[str]:
    """Return which rungs of a quick look can be climbed.

    Args:
        names: The rungs that the full climb would climb.
    """
    return [name for name in QUICK_RUNGS if name in names]
