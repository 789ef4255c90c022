"""What the wrappers around foreign networks share."""

from __future__ import annotations

import difflib
from typing import Collection

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from tl_plugin.engine.layers.dry_run import dry_run


class PooledBackbone(BaseModule):
    """A foreign network that gives one pooled vector per image.

    Weights to begin with are loaded in ``init_weights``, which ``Runner.train()`` calls and test,
    inference and export don't: a trained checkpoint needs no file of them, and no network. Nor does
    a run that resumes, or whose ``load_from`` brings every tensor of the network: mmengine's
    runners tell so (:mod:`tl_plugin.reliability.start`). The network's own ``init_weights`` is
    never called: it would overwrite weights that were just loaded.

    Args:
        init_cfg: As in mmengine. Defaults to None.

    Attributes:
        num_features (int): Width D of the pooled vector.
        initial_weights (str): What the network begins with, '' for random weights.
        superseded_by (str | None): The checkpoint that is loaded later and makes them needless.
    """

    def __init__(self, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        self.num_features = 0
        self.initial_weights = ''
        self.superseded_by: str | None = None

    def network(self) -> nn.Module:
        """Give the wrapped network."""
        raise NotImplementedError

    def load_initial_weights(self) -> None:
        """Load the weights that the network begins with."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load the weights to begin with, unless a later checkpoint brings all of them."""
        if self.initial_weights and not self.is_init:
            if self.superseded_by is None:
                self.load_initial_weights()
            else:
                print_log(
                    f'{type(self).__name__}: {self.initial_weights} is not loaded, since '
                    f'{self.superseded_by} brings all of the network.',
                    logger='current',
                )
        super().init_weights()

    def pool(self, features: Tensor) -> Tensor:
        """Make one vector per image of what the network returns.

        Args:
            features: The output of the network for N images.

        Returns:
            (N, D).
        """
        return features

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the pooled features of a batch of images.

        Args:
            x: (N, C, H, W).

        Returns:
            A tuple with one tensor (N, D), as heads of mmpretrain expect it.
        """
        return (self.pool(self.network()(x)),)

    def settle(self, source: str) -> None:
        """Measure the width and protect the network, once it is built.

        Args:
            source: What the network begins with, '' for random weights.

        Raises:
            ValueError: If ``init_cfg`` would overwrite these weights, or if the output isn't one
                vector per image.
        """
        if source and self.init_cfg:
            raise ValueError(
                f'init_cfg={self.init_cfg} would overwrite the weights from '
                f'{source}. Give one of the two.'
            )
        self.initial_weights = source
        self.network().is_init = True
        (pooled,) = dry_run(self, lambda backbone, images: backbone(images))
        if not isinstance(pooled, Tensor) or pooled.ndim != 2 or len(pooled) != 2:
            raise ValueError(
                f'{type(self.network()).__name__} gives '
                f'{getattr(pooled, "shape", type(pooled).__name__)} for 2 images, '
                'expected one vector per image, (2, D).'
            )
        self.num_features = pooled.shape[1]


def check_name(name: str, known: Collection[str], library: str) -> None:
    """Refuse a model name that a library doesn't have.

    Args:
        name: The name asked for.
        known: All names.
        library: Where the names are from, for the message.

    Raises:
        ValueError: If the name is unknown; the message lists the nearest names.
    """
    if name not in known:
        close = ', '.join(difflib.get_close_matches(name, known, 5, 0.5)) or 'none is near'
        raise ValueError(f'{library} has no model {name!r}. Nearest: {close}.')
