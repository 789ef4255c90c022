from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import attraction_and_dispersion, check_images
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class AaDAlignment(Alignment):
    r"""Target predictions like those of the nearest images, and unlike those of the batch (AaD).

    See :func:`tl_plugin.functional.attraction_and_dispersion`. Yang et al., "Attracting and
    Dispersing: A Simple Approach for Source-free Domain Adaptation", NeurIPS 2022, arXiv
    2205.04183. The nearest images are found in a memory of features and predictions of all target
    images, which :class:`NeighbourMemoryHook` fills and every step renews. It uses the target
    alone, couples all images of a batch and is computed on those of all processes together.

    Logs ``attraction`` and ``dispersion``, before the weight.

    Args:
        num_neighbours: How many nearest images each one is compared with. Defaults to 5.
        beta: How fast the weight of the dispersion falls, :math:`(1 + 10 t)^{-\beta}` with the
            part t of training that is done; 0 keeps it at 1. Defaults to 0, the paper's for the 65
            classes of Office-Home; it has 2 for 31 and 5 for the 12 of VisDA, as the fewer the
            classes, the more of a batch is of one.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    needs_logits = True
    needs_source = False

    @checked
    def __init__(self, num_neighbours: int = 5, beta: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        if num_neighbours < 1:
            raise ValueError(f'AaDAlignment: num_neighbours must be >= 1, got {num_neighbours}')
        if beta < 0:
            raise ValueError(f'AaDAlignment: beta must be >= 0, got {beta}')
        self.num_neighbours = num_neighbours
        self.beta = beta

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return minus the attraction plus the weighted dispersion."""
        check_images('attraction of neighbours', target=target.logits)
        if target.neighbours is None:
            raise ValueError(
                'AaDAlignment needs the memory of target images that a hook fills: add '
                "dict(type='NeighbourMemoryHook') to custom_hooks, as the overlay aad does"
            )
        attraction, dispersion = attraction_and_dispersion(
            gather_ranks(target.logits), gather_ranks(target.neighbours[:, : self.num_neighbours])
        )
        self.log(attraction=attraction, dispersion=dispersion)
        return (1 + 10 * self.progress) ** -self.beta * dispersion - attraction
