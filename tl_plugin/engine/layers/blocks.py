"""Cuts a network that nobody describes into the units that make up its layers."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import nn

from .names import children, parameters

#: Below this number of units a network counts as not cut yet, and its largest unit is cut again.
FEWEST_UNITS = 3

#: A plain sequence of more weights than this is no stem and no classifier, and is cut.
LONGEST_STEM = 4


@dataclass
class Cut:
    """What a network was cut into.

    Attributes:
        units: The parameter names of each unit, in the order in which the units are registered.
        loose: Parameters that belong to no unit: tokens and embeddings held by a container.
    """

    units: list[list[str]] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)


def cut(root: nn.Module) -> Cut:
    """Cut a network into units: stem, blocks, head.

    A block (a residual unit, a transformer layer, an inception module) stays whole. A container
    is opened: a list of blocks, a module that repeats one kind of block, and a plain sequence of
    weights that is too long for a stem, which is cut weight by weight.

    Args:
        root: The network. It's always opened.

    Returns:
        Every parameter exactly once, in a unit or loose.
    """
    return _Cutter(root).run()


class _Cutter:

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.names = {id(p): name for name, p in parameters(root).items()}
        self.total = _weights(root)
        kinds = Counter(type(m) for m in root.modules() if _is_composite(m))
        self.repeated_kinds = {kind for kind, count in kinds.items() if count > 1}

    def run(self) -> Cut:
        modules, loose = self._open([self.root], forced=True)
        while len(modules) < FEWEST_UNITS:
            largest = max(modules, key=_weights, default=None)
            if largest is None or not any(True for _ in children(largest)):
                break
            index = modules.index(largest)
            inner, more = self._open([largest], forced=True)
            modules[index:index + 1], loose = inner, loose + more
        # The same module may be registered twice; its second place is then empty.
        taken: set[int] = set()
        loose = self._take(loose, taken)
        units = [self._take(list(m.parameters()), taken) for m in modules]
        return Cut([unit for unit in units if unit], loose)

    def _take(self, values: list[nn.Parameter], taken: set[int]) -> list[str]:
        fresh = [v for v in values if id(v) not in taken]
        taken.update(map(id, fresh))
        return [self.names[id(v)] for v in fresh]

    def _open(self, modules, forced=False) -> tuple[list[nn.Module], list[nn.Parameter]]:
        units, loose = [], []
        for module in modules:
            if not forced and not self._is_container(module):
                units.append(module)
                continue
            loose += module.parameters(recurse=False)
            inner, more = self._open([child for _, child in children(module)])
            units, loose = units + inner, loose + more
        return units, loose

    def _is_container(self, module: nn.Module, inside_block: bool = False) -> bool:
        nested = [child for _, child in children(module)]
        if not nested:
            return False
        if _is_list(module):
            return _holds_repeated(nested) if inside_block else self._is_open_list(module)
        inside_block = inside_block or type(module) in self.repeated_kinds
        return self._repeats_blocks(module) or any(
            self._is_container(child, inside_block) for child in nested)

    def _is_open_list(self, module: nn.Module) -> bool:
        # A list without a forward of its own runs piece by piece, wherever the pieces stand.
        if not isinstance(module, nn.Sequential) or any(map(_is_composite, _entries(module))):
            return True
        count = _weights(module)
        return count > LONGEST_STEM or (count > 1 and 2 * count >= self.total)

    def _repeats_blocks(self, module: nn.Module) -> bool:
        if type(module) not in self.repeated_kinds:
            return _holds_repeated(_entries(module))
        # One of many stages, or one of many blocks? Two attentions inside a block are no reason
        # to cut it, nor are parallel branches; a list of blocks, or nothing but blocks, is what a
        # stage has.
        nested = [child for _, child in children(module)]
        if any(_is_list(m) and _holds_repeated([c for _, c in children(m)]) for m in nested):
            return True
        return len({type(child) for child in nested}) == 1 and _holds_repeated(nested)


def _holds_repeated(modules: list[nn.Module]) -> bool:
    kinds = Counter(type(m) for m in modules if _is_composite(m))
    return any(count > 1 for count in kinds.values())


def _entries(module: nn.Module) -> list[nn.Module]:
    """List a module's children, those of its lists in their place."""
    found = []
    for _, child in children(module):
        found += _entries(child) if _is_list(child) else [child]
    return found


def _is_list(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, (nn.ModuleList, nn.ModuleDict))


def _weights(module: nn.Module) -> int:
    """Count the modules below that hold a matrix or a kernel of their own."""
    return sum(any(p.ndim > 1 for p in m.parameters(recurse=False)) for m in module.modules())


def _is_composite(module: nn.Module) -> bool:
    return not _is_list(module) and _weights(module) > 1
