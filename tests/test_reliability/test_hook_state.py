"""The state of hooks lies where publishing drops it."""

import torch

from tl_plugin.reliability.checkpoints import save_hook_state, saved_hook_state


def test_states_lie_side_by_side():
    checkpoint = dict(state_dict={})
    save_hook_state(checkpoint, 'labels', [1])
    save_hook_state(checkpoint, 'best', {})
    assert checkpoint == dict(state_dict={}, hook_msgs=dict(labels=[1], best={}))
    assert saved_hook_state(checkpoint, 'labels') == [1]
    assert saved_hook_state(checkpoint, 'x') is None


def test_reading_leaves_a_bare_state_dict_alone():
    state = {'conv.weight': torch.ones(1)}
    assert saved_hook_state(state, 'labels') is None and list(state) == ['conv.weight']
    assert saved_hook_state(dict(hook_msgs=None), 'labels') is None
