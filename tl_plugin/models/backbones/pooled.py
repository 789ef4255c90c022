"""Base class of the wrappers around networks of other libraries."""

from __future__ import annotations

from collections.abc import Collection

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from tl_plugin.engine.layers.dry_run import dry_run
from tl_plugin.stack.messages import did_you_mean


class PooledBackbone(BaseModule):
    """A network of another library that outputs one pooled vector per image.

    Initial weights are loaded in ``init_weights``, which ``Runner.train()`` calls and test,
    inference and export don't: a trained checkpoint needs neither their file nor a download. Nor
    does a run that resumes, or whose ``load_from`` has every tensor of the network, which
    :mod:`tl_plugin.reliability.initial_weights` announces. The network's own ``init_weights`` is
    never called: it would overwrite weights that were just loaded.

    Args:
        init_cfg: As in mmengine. Defaults to None.

    Attributes:
        num_features (int): Width D of the pooled vector.
        initial_weights (str): Source of the initial weights, '' for random ones.
        superseded_by (str | None): The checkpoint that replaces all of them later.
    """

    def __init__(self, init_cfg: dict | list | None = None) -> None:
        super().__init__(init_cfg)
        self.num_features = 0
        self.initial_weights = ''
        self.superseded_by: str | None = None

    def network(self) -> nn.Module:
        """Return the wrapped network."""
        raise NotImplementedError

    def load_initial_weights(self) -> None:
        """Load the initial weights."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load the initial weights, unless a checkpoint replaces all of them."""
        if self.initial_weights and not self.is_init:
            if self.superseded_by is None:
                self.load_initial_weights()
            else:
                print_log(
                    f'{type(self).__name__}: {self.initial_weights} is not loaded, since '
                    f'{self.superseded_by} has all weights of the network.',
                    logger='current',
                )
        super().init_weights()

    def pool(self, features: Tensor) -> Tensor:
        """Reduce the network's output to one vector per image.

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
            source: Source of the initial weights, '' for random ones.

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
    """Raise an error for a model name that a library doesn't have.

    Args:
        name: The name asked for.
        known: All names.
        library: Where the names are from, for the message.

    Raises:
        ValueError: If the name is unknown; the message suggests similar ones.
    """
    if name not in known:
        suggestion = did_you_mean(name, known, 5, 0.5)
        raise ValueError(f'{library} has no model {name!r}.{suggestion}')
