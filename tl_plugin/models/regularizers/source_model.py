from __future__ import annotations

from typing import Any

from mmengine.model import ModuleDict
from torch import Tensor, nn

from tl_plugin.engine.layers.hollow import detached_copy


class SourceModel:
    """A classifier as it was when the run began: frozen, in eval mode, without its losses and
    its teacher.

    It isn't a module, so that nobody who goes through a model's parameters and buffers meets it:
    neither optimizer nor ``DistributedDataParallel``, which would broadcast it, nor ``EMAHook``,
    which pairs the buffers of two models by their order. Nor does it come into ``state_dict``.

    Args:
        classifier: An :class:`AdaptationClassifier`. It is copied and stays untouched.
        state: Weights and buffers to take instead of the classifier's. Defaults to None.

    Raises:
        RuntimeError: If ``state`` doesn't fit the classifier.
    """

    def __init__(self, classifier: nn.Module, state: dict[str, Tensor] | None = None) -> None:
        # The statistics of the source say what the model knew, the other parts only how it learns.
        unused = set(classifier.training_only) - {'source_statistics'}
        memo = {
            id(part): ModuleDict() for name, part in classifier.named_children() if name in unused
        }
        self.classifier = detached_copy(classifier, memo)
        self.classifier.requires_grad_(False)
        if state is not None:
            self.classifier.load_state_dict(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> SourceModel:
        return self  # it never changes, and copies of the classifier needn't take its memory

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers by name, on the CPU, for a checkpoint."""
        return {name: value.cpu() for name, value in self.classifier.state_dict().items()}
