"""Log histories in checkpoints as tensors, so that ``torch.load`` reads them by itself.

mmengine pickles ``HistoryBuffer`` objects into every checkpoint, which torch's safe default
refuses: mmpretrain's ``publish_model.py`` fails on them, and so does any ``torch.load`` where
``tl_plugin`` isn't imported. mmengine itself skips histories of another form, with a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_PARTS = {'log_history', 'count_history', 'max_length'}


def write_plainly(checkpoint: dict) -> None:
    """Exchange the histories in a checkpoint that is about to be saved for tensors.

    Args:
        checkpoint: What ``before_save_checkpoint`` gets; changed in place.
    """
    hub = checkpoint.get('message_hub')
    if not hub:
        return
    for name, buffer in hub['log_scalars'].items():
        if isinstance(buffer, HistoryBuffer):
            history, counts = (torch.tensor(array) for array in buffer.data)
            hub['log_scalars'][name] = dict(
                log_history=history, count_history=counts, max_length=buffer.max_length
            )
    hub['runtime_info'] = {name: _plain(value) for name, value in hub['runtime_info'].items()}


def restore_histories(checkpoint: dict) -> None:
    """Turn the tensors in a loaded checkpoint into histories again.

    Args:
        checkpoint: What ``after_load_checkpoint`` gets; changed in place.
    """
    hub = checkpoint.get('message_hub')
    for name, value in list(hub['log_scalars'].items()) if isinstance(hub, dict) else ():
        if isinstance(value, dict) and set(value) == _PARTS:
            history, counts = (value[key].cpu().numpy() for key in ('log_history', 'count_history'))
            hub['log_scalars'][name] = HistoryBuffer(history, counts, value['max_length'])


def _plain(value: Any) -> Any:
    """Make numbers of numpy Python's own; a best score is one, for example."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value
