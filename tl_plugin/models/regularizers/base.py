from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn

from tl_plugin.engine.layers import LayerOutputs
from tl_plugin.stack.options import checked

IMAGES = ('source', 'target', 'both')


class ModelView(NamedTuple):
    """Weights of a model, and its outputs for some images, as regularizers get them.

    Attributes:
        weights: Parameters of backbone, neck and head by name.
        features: ``head.pre_logits``, one vector an image, (N, D). None unless a regularizer
            ``reads`` the images.
        logits: The head's scores, (N, K). None unless a regularizer ``reads`` them.
        maps: Outputs of the layers that the regularizer names, shallow to deep.
        samples: Data samples of the images. None unless a regularizer ``reads`` them.
    """

    weights: Mapping[str, Tensor]
    features: Tensor | None = None
    logits: Tensor | None = None
    maps: Sequence[Tensor] = ()
    samples: Sequence[Any] | None = None


class Regularizer(BaseModule):
    """A loss that preserves what the model could do when the run began.

    A subclass implements :meth:`forward` and is registered in ``MODELS``. One that isn't a mean
    over images reads them through :func:`tl_plugin.stack.gather.gather_ranks`.

    Args:
        loss_weight: Factor of the loss. Not negative.
        images: Domain whose images it uses: 'source', 'target' or 'both'. An ordinary batch, of a
            run without adaptation, is all source. Defaults to 'source', since adaptation is to
            change the outputs for target images.
        init_cfg: Of mmengine's ``BaseModule``. Defaults to None.

    Raises:
        ValueError: If an argument is out of its range.
    """

    #: What :meth:`forward` reads of both models: 'weights', 'features', 'logits', 'maps',
    #: 'samples'.
    reads: tuple[str, ...] = ()

    #: Whether it compares with the source model. Without, its ``source`` argument is None.
    needs_source_model = True

    #: Whether it remembers something of each training image, for :class:`ImageMemoryHook`.
    remembers_images = False

    @checked
    def __init__(
        self, loss_weight: float, images: str = 'source', init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        name = type(self).__name__
        if loss_weight < 0:
            raise ValueError(f'{name}: loss_weight must be >= 0, got {loss_weight}')
        if images not in IMAGES:
            raise ValueError(f'{name}: images must be one of {", ".join(IMAGES)}, got {images!r}')
        self.loss_weight = loss_weight
        self.images = images
        #: Where ``ModelView.maps`` comes from; a regularizer that reads maps sets it.
        self.outputs: LayerOutputs | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether it needs a softmax over the classes."""
        return 'logits' in self.reads

    @property
    def reads_images(self) -> bool:
        """Whether the source model has to run."""
        return any(field != 'weights' for field in self.reads)

    def prepare(self, classifier: nn.Module) -> None:
        """Inspect the classifier once, before training. Does nothing by default.

        Args:
            classifier: The :class:`AdaptationClassifier`.
        """

    @abstractmethod
    def forward(self, source: ModelView | None, adapted: ModelView) -> Tensor:
        """Return the regularizer's loss, not yet weighted.

        Args:
            source: The model as it was when the run began. Nothing in it gets a gradient.
            adapted: The model that trains, on the same images.

        Returns:
            A 0-d tensor.
        """
