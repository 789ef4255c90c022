"""Learning rate and weight decay of each parameter, from the options and the model."""

from __future__ import annotations

import logging
from collections.abc import Collection
from fnmatch import fnmatch
from typing import NamedTuple

from mmengine.logging import print_log
from torch import nn

from tl_plugin.stack.model_wrappers import strip

from ..layers import LayerMap
from ..layers.module_kinds import is_norm
from ..layers.selection import nearest_names
from .options import LayerwiseOptions


class Setting(NamedTuple):
    """The settings of one optimizer group.

    Attributes:
        depth: Their layer.
        above: The layers above it, as their learning rate counts them.
        lr_mult: Factor on the optimizer's learning rate.
        decay_mult: Factor on its weight decay.
        extras: Further optimizer options, from ``custom_keys``: sorted items.
    """

    depth: int
    above: int
    lr_mult: float
    decay_mult: float
    extras: tuple


class GroupRules:
    """Turn the options into a setting for each parameter of a model.

    Args:
        model: The unwrapped model.
        layers: Its layers.
        options: The options.
        matrices: ``id`` of each parameter with two or more dimensions.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerMap,
        options: LayerwiseOptions,
        matrices: Collection[int],
    ) -> None:
        self.model = model
        self.layers = layers
        self.options = options
        self.matrices = matrices
        self.undecayed = no_weight_decay(model)
        self.patterns = options.patterns()
        self.matches = dict.fromkeys(self.patterns, 0)

    def settings(self) -> dict[str, Setting]:
        """Find the setting of every parameter, whether frozen or not, shared ones once.

        Returns:
            By parameter name, in the model's order.

        Raises:
            ValueError: An entry of ``custom_keys`` that sets more than a weight decay matches
                nothing.
        """
        found: dict[str, Setting] = {}
        seen: set[int] = set()
        for path, module in self.model.named_modules():
            for name, value in module.named_parameters(path, recurse=False):
                if id(value) not in seen:
                    seen.add(id(value))
                    found[strip(name)] = self._setting(module, strip(name), value)
        self._report_matches(list(found))
        return found

    def _setting(self, module: nn.Module, name: str, value: nn.Parameter) -> Setting:
        custom = self._custom(name)
        depth, above = self.layers.depth(name), self.layers.layers_above(name)
        lr_mult = self.layer_lr_mult(depth, above) * custom.pop('lr_mult', 1.0)
        if _is_bias(name) and not is_norm(module):
            lr_mult *= self.options.bias_lr_mult
        decay_mult = custom.pop('decay_mult', None)
        if decay_mult is None:
            decay_mult = self._decay_mult(module, name, value)
        return Setting(
            depth,
            above,
            lr_mult,
            float(decay_mult),
            tuple((key, _hashable(custom[key])) for key in sorted(custom)),
        )

    def layer_lr_mult(self, depth: int, above: int) -> float:
        """Find the factor on the learning rate of ordinary parameters.

        Args:
            depth: Their layer.
            above: The layers above it, as learning rates count them.
        """
        head = self.options.head_lr_mult if depth == self.layers.num_layers - 1 else 1.0
        return self.options.base_lr_mult * self.options.layer_decay_rate**above * head

    def _custom(self, name: str) -> dict:
        for key, pattern in self.patterns.items():
            # Stock configs write '.cls_token': with a dot in front it matches at the top too.
            if pattern.search(name) or pattern.search(f'.{name}'):
                self.matches[key] += 1
                return dict(self.options.custom_keys[key])
        return {}

    def _decay_mult(self, module: nn.Module, name: str, value: nn.Parameter) -> float:
        options = self.options
        if name in self.undecayed or getattr(value, '_no_weight_decay', False):
            return 0.0
        rules = [
            (is_norm(module), options.norm_decay_mult),
            (_is_bias(name), options.bias_decay_mult),
            (_is_depthwise(module), options.dwconv_decay_mult),
            (id(value) not in self.matrices, options.flat_decay_mult),
        ]
        return next((mult for applies, mult in rules if applies and mult is not None), 1.0)

    def _report_matches(self, names: list[str]) -> None:
        for key, count in self.matches.items():
            setting = self.options.custom_keys[key]
            if count:
                print_log(
                    f'custom_keys: {key!r} sets {setting} for {count} parameters.', logger='current'
                )
                continue
            message = f'custom_keys: {key!r} matches no parameter. {nearest_names(key, names)}'
            # Stock configs list what some variants of a backbone shouldn't decay. A learning
            # rate that reaches nothing is a mistake.
            if set(setting) != {'decay_mult'}:
                raise ValueError(message)
            print_log(message, logger='current', level=logging.WARNING)


def no_weight_decay(model: nn.Module) -> set[str]:
    """Collect what the parts of a model list as not to be decayed.

    Every module's ``no_weight_decay()`` (timm: names or wildcards) and
    ``no_weight_decay_keywords()`` (Swin: parts of names) are read.

    Args:
        model: Any model.

    Returns:
        Parameter names.
    """
    found: set[str] = set()
    for path, module in model.named_modules():
        listed, keywords = (
            method() if callable(method) else ()
            for method in (
                getattr(module, 'no_weight_decay', None),
                getattr(module, 'no_weight_decay_keywords', None),
            )
        )
        if listed or keywords:
            found.update(
                strip(f'{path}.{name}' if path else name)
                for name, _ in module.named_parameters()
                if any(fnmatch(strip(name), pattern) for pattern in listed)
                or any(keyword in name for keyword in keywords)
            )
    return found


def _hashable(value):
    """Turn a config's lists, such as betas, into the tuples that optimizers want anyway."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _is_bias(name: str) -> bool:
    return name.rpartition('.')[-1] == 'bias'


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.in_channels == module.groups
