"""Numbers the training images for losses that remember something of each."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.datasets.image_numbers import ImageNumbers, short_name
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.protocol import require_adaptation_model

from ..loops.paired_loader import train_datasets
from .label_weights_hook import refuse_mixed_images

_STATE = 'image_memories'


@HOOKS.register_module()
class ImageMemoryHook(Hook):
    """Numbers the training images for losses that remember something of each.

    What they remember, such as the targets of :class:`EarlyLearningRegularizer`, is in the
    checkpoint beside ``state_dict``, so that a resumed run goes on with it and a published or
    exported model carries none of it.

    Raises:
        ValueError: If images can't be told apart, are mixed, or aren't those that the checkpoint to
            resume from remembers.
    """

    # After the model has its weights and before the first step.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._saved: dict | None = None
        self._images = ''

    def before_train(self, runner: Runner) -> None:
        """Give each image a number; a resumed run goes on with what it remembers."""
        model = require_adaptation_model(runner.model, 'ImageMemoryHook')
        memories = model.memories()
        if not memories:
            return
        refuse_mixed_images(model, ', '.join(memories))
        numbers = ImageNumbers(train_datasets(runner.train_loop))
        self._images = fingerprint([short_name(key) for key in numbers.keys])
        if self._saved is not None and self._saved['images'] != self._images:
            raise ValueError(
                f'the checkpoint remembers something of each of {self._saved["count"]} training '
                f'images, and these {len(numbers)} are others: resume with the same data, or begin '
                'a new run with load_from'
            )
        states = {} if self._saved is None else self._saved['states']
        for name, memory in memories.items():
            memory.remember(numbers, states.get(name))
        self._count = len(numbers)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put what is remembered into the checkpoint."""
        memories = require_adaptation_model(runner.model, 'ImageMemoryHook').memories()
        states = {name: memory.memory() for name, memory in memories.items()}
        states = {name: state for name, state in states.items() if state is not None}
        if states:
            saved = dict(states=states, images=self._images, count=self._count)
            save_hook_state(checkpoint, _STATE, saved)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint of a resumed run remembers."""
        if resumes(runner):
            self._saved = saved_hook_state(checkpoint, _STATE)
