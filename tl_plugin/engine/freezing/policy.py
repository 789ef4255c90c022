"""Modes of norm, dropout and stochastic-depth layers in a frozen part."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields

from torch import nn

from tl_plugin.stack.model_wrappers import parameters, unwrap

from ..layers.module_kinds import is_droppath, is_norm, norm_parameters

_CHOICES = dict(
    norm=('eval', 'train'),
    norm_affine=('frozen', 'trained'),
    dropout=('eval', 'train'),
    droppath=('eval', 'train'),
)


@dataclass(frozen=True)
class FreezePolicy:
    """Settings for the layers of a frozen part while the rest trains.

    Attributes:
        norm: ``'eval'``: running statistics are used and stay as they are; ``'train'``: the
            batch's are used and the running ones follow the data.
        norm_affine: ``'frozen'``: the affine weights of norm layers are frozen like all others;
            ``'trained'``: they alone go on training.
        dropout: ``'eval'`` or ``'train'``: dropout, and whatever else but norm and stochastic
            depth depends on the mode.
        droppath: ``'eval'`` or ``'train'``: stochastic depth.

    Raises:
        ValueError: For any other value.
    """

    norm: str = 'eval'
    norm_affine: str = 'frozen'
    dropout: str = 'eval'
    droppath: str = 'eval'

    def __post_init__(self) -> None:
        for field in fields(self):
            value, choices = getattr(self, field.name), _CHOICES[field.name]
            if value not in choices:
                raise ValueError(
                    f'{field.name}={value!r}: expected {choices[0]!r} or {choices[1]!r}.'
                )

    def frozen_names(self, model: nn.Module, part: Collection[str]) -> list[str]:
        """Name the parameters of a part that don't train under this policy.

        Args:
            model: The model.
            part: Names of the part's parameters.

        Returns:
            Their names, without the affine weights of norm layers if these train.
        """
        if self.norm_affine == 'frozen':
            return list(part)
        affine, values = norm_parameters(unwrap(model)), parameters(model)
        return [name for name in part if id(values[name]) not in affine]

    def mode_of(self, module: nn.Module) -> str:
        """Say in which mode a module of a frozen part runs: ``'eval'`` or ``'train'``."""
        if is_norm(module):
            return self.norm
        return self.droppath if is_droppath(module) else self.dropout


class FrozenModes:
    """Keep the modules of a frozen part in their modes, against each ``model.train()``.

    Args:
        model: The model.
        part: Names of the part's parameters.
        policy: The modes.
    """

    def __init__(self, model: nn.Module, part: Collection[str], policy: FreezePolicy) -> None:
        modules = modules_of_part(unwrap(model), part)
        self.evaluated = [m for m in modules if policy.mode_of(m) == 'eval']
        self.trained = [m for m in modules if policy.mode_of(m) == 'train']

    def apply(self) -> None:
        """Set the modes. Cheap where they are set already."""
        for module in self.evaluated:
            if not module.training:
                continue
            if type(module).train is nn.Module.train:
                module.training = False
            else:
                # Some modules do more than set the flag: LeViT's attention caches its biases.
                module.train(False)
        for module in self.trained:
            if not module.training:
                module.training = True


def modules_of_part(model: nn.Module, part: Collection[str]) -> list[nn.Module]:
    """Find the modules that lie in a part of a model, given by its parameters.

    A module belongs to the part with all of its parameters. One without any (a dropout) belongs
    to it where the nearest module around it does, or where the parameters right before and after
    it do, as for a dropout between two frozen blocks.

    Args:
        model: The unwrapped model.
        part: Names of the part's parameters.

    Returns:
        The modules, outer before inner.
    """
    values = parameters(model)
    inside = {id(values[name]) for name in part}
    between = _between(list(model.modules()), inside)
    found = []

    def visit(module: nn.Module, around: bool) -> None:
        own = [id(value) in inside for value in module.parameters()]
        belongs = all(own) if own else around or id(module) in between
        if belongs:
            found.append(module)
        for child in module.children():
            visit(child, belongs)

    visit(model, False)
    return found


def _between(modules: list[nn.Module], inside: set[int]) -> set[int]:
    """Find the modules with parameters of the part right before and right after them."""
    return _next_to(modules, inside) & _next_to(reversed(modules), inside)


def _next_to(modules: Iterable[nn.Module], inside: set[int]) -> set[int]:
    found, last = set(), False
    for module in modules:
        if last:
            found.add(id(module))
        own = [id(value) in inside for value in module.parameters(recurse=False)]
        last = own[-1] if own else last
    return found
