"""Read the outputs of a model's layers in a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tl_plugin.stack.model_wrappers import unwrap

from .layer_map import LayerMap
from .selection import LayerSpec, parse_depths


class LayerOutputs:
    """Read the outputs of the layers that :class:`LayerMap` knows, by depth, shallow to deep.

    A layer's output is that of the last of its modules to run. The head has none here: training
    doesn't run it as a whole.

    Args:
        model: Any model, also wrapped.
        layers: Depths to read, as :meth:`LayerMap.select` takes them. None takes all but the head.
            Defaults to None.
        max_layers: Keep at most this many of them, spread evenly, the deepest included. Defaults to
            None, all.

    Raises:
        ValueError: If there is no such layer, or only such as the head or bare parameters.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> outputs = LayerOutputs(network)
        >>> with outputs.read(network) as found:
        ...     _ = network(torch.zeros(4, 3, 3, 3))
        >>> {depth: tuple(value.shape) for depth, value in found.items()}
        {0: (4, 8, 1, 1)}
    """

    def __init__(
        self, model: nn.Module, layers: LayerSpec | None = None, max_layers: int | None = None
    ) -> None:
        layer_map = LayerMap.from_model(model)
        head = layer_map.num_layers - 1
        wanted = range(head) if layers is None else parse_depths(layers, layer_map.num_layers)
        known = dict(unwrap(model).named_modules())
        #: Names of a layer's modules by depth.
        self.modules = {
            depth: names
            for depth in wanted
            if depth != head and (names := [n for n in layer_map.modules(depth) if n in known])
        }
        if not self.modules:
            raise ValueError(
                f'layers={layers!r} has no layer whose output can be read: of depths 0 (stem) to '
                f'{head} (head) the head is none, nor is one that consists of bare parameters.'
            )

        if max_layers is not None:
            self.modules = {d: self.modules[d] for d in _spread([*self.modules], max_layers)}

    @contextmanager
    def read(self, model: nn.Module) -> Iterator[dict[int, Tensor]]:
        """Keep the outputs of every forward pass in the context, the latest one each.

        Args:
            model: The model, or a copy of it.

        Yields:
            Depth -> output, filled by the forward pass.
        """
        model, found = unwrap(model), {}
        handles = [
            model.get_submodule(name).register_forward_hook(partial(_keep, found, depth))
            for depth, names in self.modules.items()
            for name in names
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def _spread(depths: list[int], count: int) -> list[int]:
    if count >= len(depths):
        return depths
    return [depths[math.ceil(part * len(depths) / count) - 1] for part in range(1, count + 1)]


def _keep(found: dict[int, Tensor], depth: int, module: nn.Module, inputs, output) -> None:
    tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
    if tensors:
        found[depth] = tensors[0]
