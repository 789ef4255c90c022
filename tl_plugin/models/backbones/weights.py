"""Load local weights into a network, all or none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection

from mmengine.logging import print_log
from torch import nn

from tl_plugin.engine.low_rank import merged_state
from tl_plugin.reliability.checkpoints import read_whole
from tl_plugin.stack.foreign_weights import WEIGHT_KEYS, StateDict, Weights, find_weights


def load_weights(
    network: nn.Module,
    path: str,
    classifier: Collection[str] = (),
    convert: Callable[[StateDict], StateDict] | None = None,
) -> None:
    """Load a checkpoint into a network that has no classifier.

    Checkpoints of mmengine and of other training programs are read too: of a whole classifier, a
    momentum encoder's pair or a self-supervised model the network's tensors are taken, averaged
    ones first (:data:`tl_plugin.stack.foreign_weights.WEIGHT_KEYS`). The log says which were
    taken, and what else there was.

    Args:
        network: The network, without its classifier.
        path: A local file: ``.safetensors``, or a checkpoint of tensors and plain data.
        classifier: Module names of the classifier that the checkpoint may still hold; its tensors
            are dropped. Defaults to ().
        convert: Turns the layout of the original authors into the network's; tried where the
            tensors don't fit as they are. Defaults to None.

    Raises:
        FileNotFoundError: If there's no such file.
        ValueError: If the tensors don't fit; the message names the missing, unexpected and
            mismatched ones.
    """
    wanted = network.state_dict()
    merged_state(network, wanted)  # the file is of the network without adapters
    found = _read(path)
    whole, prefix = _inside(found.state, wanted)
    state, dropped, strangers = _fitting(whole, wanted, classifier)
    problems = _differences(wanted, state, strangers)
    if problems and convert is not None:
        try:
            converted, *removed = _fitting(convert(whole), wanted, classifier)
        except Exception as error:  # converters are made for one model and break on any other
            problems.append(f'converting it failed ({type(error).__name__}: {error})')
        else:
            state, (dropped, strangers) = converted, removed
            problems = _differences(wanted, state, strangers)
    if problems:
        raise ValueError(
            f'{path} does not fit {type(network).__name__}: {"; ".join(problems)}. Check the model '
            'name, and what changes shapes (in_channels, img_size), against the checkpoint.'
        )
    network.load_state_dict(state, strict=False)  # batch counters may be missing
    others = [*found.others, *_copies(found.state, whole, prefix)]
    print_log(
        f'Loaded {len(state)} tensors from {path}'
        + (f', under {found.key}' if found.key else '')
        + (f', whose names begin with {prefix}' if prefix else '')
        + (f'; dropped the classifier: {", ".join(dropped)}' if dropped else '')
        + (f'; not taken: the weights under {", ".join(others)}' if others else ''),
        logger='current',
    )
    if strangers:
        print_log(
            f'{path} also holds what {type(network).__name__} has not, and is not used: '
            f'{", ".join(strangers)}.',
            logger='current',
            level=logging.WARNING,
        )


def _read(path: str) -> Weights:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'checkpoint_path is {path!r}, but there is no such file. Give a '
            'local file; downloads go through `pretrained` or `weights`.'
        )
    if str(path).endswith('.safetensors'):
        return Weights(_read_safetensors(path), '')
    content = read_whole(path)
    found = find_weights(content)
    if not found.state:
        raise ValueError(
            f'{path} holds no weights: expected a dict of tensors, alone or under '
            f'one of {", ".join(WEIGHT_KEYS)}, got {type(content).__name__}.'
        )
    return found


def _read_safetensors(path: str) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path} is not whole, or no safetensors file: {error}') from error


def _inside(state: StateDict, wanted: Collection[str]) -> tuple[StateDict, str]:
    """Extract the network's tensors from those of a model that contains it."""
    known = set(wanted)
    best, best_hits = '', sum(name in known for name in state)
    for prefix in dict.fromkeys(name[: i + 1] for name in state for i in _dots(name)):
        hits = sum(name.startswith(prefix) and name[len(prefix) :] in known for name in state)
        if hits > best_hits:
            best, best_hits = prefix, hits
    return {name[len(best) :]: v for name, v in state.items() if name.startswith(best)}, best


def _copies(state: StateDict, taken: StateDict, prefix: str) -> list[str]:
    """Name other parts of a model with the same network, such as a momentum encoder."""
    last = next(iter(taken), '')
    ends = {name[: -len(last)] for name in state if last and name.endswith(f'.{last}')}
    return sorted(ends - {prefix})


def _dots(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == '.'][:4]


def _fitting(
    state: StateDict, wanted: Collection[str], classifier: Collection[str]
) -> tuple[StateDict, list[str], list[str]]:
    """Separate the classifier and modules that the network lacks: a projection head, a queue."""
    heads = tuple(f'{module}.' for module in classifier)
    dropped = [name for name in state if heads and name.startswith(heads)]
    own = {name.split('.')[0] for name in wanted}
    strangers = [name for name in state if name.split('.')[0] not in own and name not in dropped]
    left_out = {*dropped, *strangers}
    fitting = {name: value for name, value in state.items() if name not in left_out}
    return fitting, dropped, strangers


def _differences(wanted: StateDict, state: StateDict, strangers: Collection[str]) -> list[str]:
    """Describe why a state dict does not fit, each kind with its first few names."""
    missing = [n for n in wanted if n not in state and not n.endswith('num_batches_tracked')]
    unexpected = [n for n in state if n not in wanted]
    mismatched = [
        f'{n} (expected {tuple(wanted[n].shape)}, got {tuple(value.shape)})'
        for n, value in state.items()
        if n in wanted and wanted[n].shape != value.shape
    ]
    if missing or unexpected or mismatched:  # alone they are no hindrance
        unexpected += strangers
    kinds = {'missing': missing, 'unexpected': unexpected, 'mismatched': mismatched}
    return [
        f'{len(names)} {kind}: {", ".join(names[:5])}{", ..." if len(names) > 5 else ""}'
        for kind, names in kinds.items()
        if names
    ]
