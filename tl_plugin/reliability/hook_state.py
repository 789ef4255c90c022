"""Where hooks keep their state in a checkpoint: in ``hook_msgs``, which publishing drops.

mmpretrain's ``publish_model.py`` deletes this key by name, and mmengine's ``published_keys`` keeps
nothing that it doesn't list. A key of their own beside ``state_dict`` would be published by the
first: the pseudo-labels of all target images, for example.
"""

from __future__ import annotations

from typing import Any

_KEY = 'hook_msgs'


def save_hook_state(checkpoint: dict, name: str, state: Any) -> None:
    """Put a hook's state into a checkpoint that is about to be saved.

    Args:
        checkpoint: What ``before_save_checkpoint`` gets.
        name: The hook's own name in it.
        state: Tensors and plain data.
    """
    checkpoint.setdefault(_KEY, {})[name] = state


def saved_hook_state(checkpoint: dict, name: str) -> Any:
    """Get it back from a loaded checkpoint.

    Args:
        checkpoint: What ``after_load_checkpoint`` gets. It isn't changed: it may be a bare state
            dict.
        name: The hook's own name in it.

    Returns:
        The state, or None if the checkpoint holds none.
    """
    messages = checkpoint.get(_KEY)
    return messages.get(name) if isinstance(messages, dict) else None
