"""How much of the source model's layers is left in a rung's model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner

from tl_plugin.engine.layers import LayerMap, LayerOutputs
from tl_plugin.evaluation.looking import look, spread_loader
from tl_plugin.evaluation.predictions import domain_loader
from tl_plugin.evaluation.similarity import compare
from tl_plugin.stack.model_wrappers import unwrap

#: Images of each domain and layers that are compared: what bounds the cost.
NUM_IMAGES, MAX_LAYERS, BATCH_SIZE = 256, 12, 32
DOMAINS = ('source', 'target')


def kept_layers(runner: Runner, source_model: str | Path) -> dict | None:
    """Compare the runner's model with the source model, on held-out images of both domains.

    Two forward passes of at most :data:`NUM_IMAGES` validation images a domain. Call it last: the
    runner's model has the source model's weights afterwards.

    Args:
        runner: After its training, with a validation of both domains.
        source_model: Checkpoint of the source model.

    Returns:
        ``layers``, names from shallow to deep; per domain ``cka``, debiased linear CKA by layer,
        and ``cosine``, ``flips``, ``drift``, see
        :class:`~tl_plugin.evaluation.similarity.Similarity`; ``images`` by domain and ``seconds``.
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
    now = look(model, loaders, outputs)
    if not _load(model, source_model):
        return None
    before = look(model, loaders, outputs)
    found: dict[str, Any] = {'layers': [names[-1] for names in outputs.modules.values()]}
    for name in DOMAINS:
        alike = compare(before[name], now[name])
        found[name] = {
            'cka': [_rounded(alike.cka.get(depth)) for depth in outputs.modules],
            **{key: _rounded(getattr(alike, key)) for key in ('cosine', 'flips', 'drift')},
        }
    found['images'] = {name: len(loader.dataset) for name, loader in loaders.items()}
    found['seconds'] = round(time.perf_counter() - began, 1)
    return found


def _load(model: Any, checkpoint: str | Path) -> bool:
    """Give a model the source model's weights; False where it is another network."""
    weights = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')['state_dict']
    own = model.state_dict()
    # What a source model hasn't got, and prediction doesn't use.
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
