from __future__ import annotations

from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS

from tl_plugin.stack.model_wrappers import unwrap


@LOOPS.register_module()
class NoTrainingLoop(EpochBasedTrainLoop):
    """A training loop that trains nothing: what hooks make of the model is validated and saved.

    It is one epoch without iterations. A run of it starts, resumes, validates, writes its
    checkpoint and is tested as any other does, so that whatever compares training runs takes it
    too. ``AdaBNHook`` in it adapts a source model and does nothing else.

    No weight asks for a gradient in it.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``; no batch of it is read.
    """

    def __init__(self, runner: Any, dataloader: Any) -> None:
        super().__init__(runner, dataloader, max_epochs=1)
        self._max_iters = 0

    def run_epoch(self) -> None:
        """Change the model, then let hooks do so."""
        model = unwrap(self.runner.model)
        model.requires_grad_(False)
        self.runner.call_hook('before_train_epoch')
        self.change(model)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def change(self, model: Any) -> None:
        """What a subclass makes of the model, in place.

        Args:
            model: Without its wrapper, holding what ``load_from`` gave it.
        """
