"""Write weights that timm, torchvision or stock mmpretrain load without this package."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .check import Agreement, compare, run_apart
from .images import Shown
from .libraries import save, texts, write_timm, write_torchvision
from .network import Network, Reference, Trained
from .stock import write_mmpretrain


def write_weights(
    trained: Trained,
    reference: Reference,
    shown: Mapping[str, Sequence[Shown]],
    metadata: Mapping[str, Any],
    path: Path,
    format: str,
    pipeline: list[dict],
) -> tuple[Agreement, list[str]]:
    """Write a model's weights in the names of a library, and compare what it predicts with them.

    Args:
        trained: The model.
        reference: The checkpoint.
        shown: Domain -> images.
        metadata: On the model.
        path: The file, or the folder of 'timm' (``config.json`` and ``model.safetensors``, what
            ``timm.create_model('local-dir:FOLDER')`` reads) and 'mmpretrain' (``config.py`` and
            ``model.pth``).
        format: 'safetensors', 'timm', 'torchvision' or 'mmpretrain'.
        pipeline: Of test images.

    Returns:
        How near the library comes to the checkpoint, and what there is to know.

    Raises:
        ValueError: If the library has no such network.
    """
    writers = {
        'safetensors': _write_safetensors,
        'timm': write_timm,
        'torchvision': write_torchvision,
        'mmpretrain': write_mmpretrain,
    }
    notes = writers[format](trained, metadata, path, pipeline)
    network = Network(trained.model, None)
    # Libraries know no temperature.
    plain = copy.copy(reference)
    plain.temperature = 1.0
    run = partial(_run_here, network) if format == 'safetensors' else run_apart
    return compare(format, path, network, plain, shown, raw=False, run=run), notes


@torch.no_grad()
def _run_here(network: Network, format: str, path: Path, batches: Sequence) -> tuple[list, float]:
    """Predict with the weights of a file that no library has a network for."""
    from safetensors.torch import load_file

    loaded = copy.deepcopy(network)
    for value in loaded.model.state_dict().values():
        value.zero_()
    loaded.model.load_state_dict(load_file(path), strict=False)
    began = time.perf_counter()
    outputs = [loaded(torch.from_numpy(batch)).numpy() for batch in batches]
    return outputs, (time.perf_counter() - began) / sum(map(len, batches))


def _write_safetensors(
    trained: Trained, metadata: Mapping[str, Any], path: Path, pipeline: list[dict]
) -> list[str]:
    about = {**texts(metadata), 'config': json.dumps(trained.config.model.to_dict(), default=str)}
    save(trained.weights, path, about)
    return ["The weights have the names of mmpretrain's model, whose config is in the metadata."]
