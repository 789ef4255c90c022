"""Loads local weights into a network, wholly or not at all."""
from __future__ import annotations

import os
from typing import Callable, Collection, Dict

from mmengine.logging import print_log
from torch import Tensor, nn

from tl_plugin.engine.resume.checkpoints import read_whole

StateDict = Dict[str, Tensor]

#: Where training programs put the weights inside a checkpoint, the averaged ones first.
WEIGHT_KEYS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')


def load_weights(network: nn.Module, path: str, classifier: Collection[str] = (),
                 convert: Callable[[StateDict], StateDict] | None = None) -> None:
    """Load a checkpoint into a network that has no classifier.

    Checkpoints of mmengine are read too: of a whole classifier the backbone's tensors are taken.

    Args:
        network: The network, without its classifier.
        path: A local ``.safetensors`` file, or one that ``torch.load`` reads with
            ``weights_only=True``.
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
    whole = _inside(_read(path), wanted)
    state, dropped = _without(whole, classifier)
    problems = _differences(wanted, state)
    if problems and convert is not None:
        try:
            converted, removed = _without(convert(whole), classifier)
        except Exception as error:  # converters are made for one model and break on any other
            problems.append(f'converting it failed ({type(error).__name__}: {error})')
        else:
            state, dropped, problems = converted, removed, _differences(wanted, converted)
    if problems:
        raise ValueError(
            f'{path} does not fit {type(network).__name__}: {"; ".join(problems)}. Check the model '
            'name, and what changes shapes (in_channels, img_size), against the checkpoint.')
    network.load_state_dict(state, strict=False)  # batch counters may be missing
    print_log(f'Loaded {len(state)} tensors from {path}'
              + (f'; dropped the classifier: {", ".join(dropped)}' if dropped else ''),
              logger='current')


def _read(path: str) -> StateDict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint_path is {path!r}, but there is no such file. Give a '
                                'local file; downloads go through `pretrained` or `weights`.')
    if str(path).endswith('.safetensors'):
        return _read_safetensors(path)
    content = read_whole(path)
    for key in WEIGHT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    held = content.items() if isinstance(content, dict) else ()
    found = {n: v for n, v in held if isinstance(n, str) and isinstance(v, Tensor)}
    if not found:
        raise ValueError(f'{path} holds no weights: expected a dict of tensors, alone or under '
                         f'one of {", ".join(WEIGHT_KEYS)}, got {type(content).__name__}.')
    return found


def _read_safetensors(path: str) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path} is not whole, or no safetensors file: {error}') from error


def _inside(state: StateDict, wanted: Collection[str]) -> StateDict:
    """Take the network's tensors out of those of whatever model holds it."""
    known = set(wanted)
    best, best_hits = '', sum(name in known for name in state)
    for prefix in dict.fromkeys(name[:i + 1] for name in state for i in _dots(name)):
        hits = sum(name.startswith(prefix) and name[len(prefix):] in known for name in state)
        if hits > best_hits:
            best, best_hits = prefix, hits
    return {name[len(best):]: v for name, v in state.items() if name.startswith(best)}


def _dots(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == '.'][:4]


def _without(state: StateDict, modules: Collection[str]) -> tuple[StateDict, list[str]]:
    heads = tuple(f'{module}.' for module in modules)
    dropped = [name for name in state if name.startswith(heads)] if heads else []
    return {name: value for name, value in state.items() if name not in dropped}, dropped


def _differences(wanted: StateDict, state: StateDict) -> list[str]:
    """Say what keeps a state dict from fitting, each kind with its first few names."""
    missing = [n for n in wanted if n not in state and not n.endswith('num_batches_tracked')]
    unexpected = [n for n in state if n not in wanted]
    mismatched = [f'{n} (expected {tuple(wanted[n].shape)}, got {tuple(value.shape)})'
                  for n, value in state.items() if n in wanted and wanted[n].shape != value.shape]
    kinds = {'missing': missing, 'unexpected': unexpected, 'mismatched': mismatched}
    return [f'{len(names)} {kind}: {", ".join(names[:5])}{", ..." if len(names) > 5 else ""}'
            for kind, names in kinds.items() if names]
