"""Compare a trained model with the source model, layer by layer, on images of both domains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner

from tl_plugin.engine.layers import LayerMap, LayerOutputs
from tl_plugin.evaluation.model_outputs import collect_outputs, spread_loader
from tl_plugin.evaluation.predictions import domain_loader
from tl_plugin.evaluation.similarity import compare
from tl_plugin.stack.model_wrappers import unwrap

from .run_records import DOMAINS, KeptLayers

#: Images of each domain and layers that are compared: what bounds the cost.
NUM_IMAGES, MAX_LAYERS, BATCH_SIZE = 256, 12, 32


def compare_layers(runner: Runner, source_model: str | Path) -> KeptLayers | None:
    """Compare the runner's model with the source model, on held-out images of both domains.

    This takes two forward passes over at most :data:`NUM_IMAGES` validation images of each domain.
    Call it last: the runner's model has the source model's weights afterwards.

    Args:
        runner: After its training, with a validation of both domains.
        source_model: Checkpoint of the source model.

    Returns:
        None where the two aren't one network, or the target isn't validated.
    """
    began = time.perf_counter()
    if not {*DOMAINS} <= {*getattr(runner.val_loop, 'domains', ())}:
        return None
    model = unwrap(runner.model)
    loaders = {
        name: spread_loader(domain_loader(runner, name), NUM_IMAGES, BATCH_SIZE, name)
        for name in DOMAINS
    }
    outputs = LayerOutputs(model, None, MAX_LAYERS)
    now = collect_outputs(model, loaders, outputs)
    if not _load(model, source_model):
        return None
    before = collect_outputs(model, loaders, outputs)
    found = {name: compare(before[name], now[name]) for name in DOMAINS}
    return KeptLayers(
        layers=[names[-1] for names in outputs.modules.values()],
        images={name: len(loader.dataset) for name, loader in loaders.items()},
        cka={
            name: [_rounded(one.cka.get(depth)) for depth in outputs.modules]
            for name, one in found.items()
        },
        cosine={name: _rounded(one.cosine) for name, one in found.items()},
        flips={name: _rounded(one.flips) for name, one in found.items()},
        drift={name: _rounded(one.drift) for name, one in found.items()},
        seconds=round(time.perf_counter() - began, 1),
    )


def _load(model: Any, checkpoint: str | Path) -> bool:
    """Load the source model's weights; return False where it is another network."""
    weights = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')['state_dict']
    own = model.state_dict()
    # Prediction doesn't use these, and a source model has none.
    unused = (*LayerMap.training_only(model), 'data_preprocessor.')
    differing = [
        name
        for name in {*weights, *own}
        if not name.startswith(unused)
        and (name not in own or name not in weights or own[name].shape != weights[name].shape)
    ]
    if differing:
        print_log(
            f'Not compared with the source model layer by layer: {len(differing)} weights are in '
            f'one of the two alone, such as {min(differing)}.',
            logger='current',
        )
        return False
    model.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)
    return True


def _rounded(value: float | None) -> float | None:
    # JSON has no nan, which a layer gives that sees no difference between images.
    return None if value is None or value != value else round(value, 4)
