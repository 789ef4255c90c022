"""Split a network that neither mmpretrain nor timm describes into the units of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from tl_plugin.stack.model_wrappers import children, parameters

#: With fewer units than this, the largest unit of a network is split again.
FEWEST_UNITS = 3

#: A plain sequence of more weights than this is no stem and no classifier, and is split.
LONGEST_STEM = 4


@dataclass
class Units:
    """What a network was split into.

    Attributes:
        units: The parameter names of each unit, in the order in which the units are registered.
        loose: Parameters that belong to no unit: tokens and embeddings held by a container.
    """

    units: list[list[str]] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)


def split_into_units(root: nn.Module, matrices: Collection[int]) -> Units:
    """Split a network into units: stem, blocks, head.

    A block (a residual unit, a transformer layer, an inception module) stays whole. A container
    is opened: a list of blocks, a module that repeats one kind of block, and a plain sequence of
    weights that is too long for a stem, which is split weight by weight.

    Args:
        root: The network. It's always opened.
        matrices: The ``id`` of its parameters that are matrices, see :func:`matrix_ids`.

    Returns:
        Every parameter exactly once, in a unit or loose.
    """
    return _Splitter(root, matrices).run()


class _Splitter:
    """Open containers and know what is repeated in the network."""

    def __init__(self, root: nn.Module, matrices: Collection[int]) -> None:
        self.root = root
        self.names = {id(p): name for name, p in parameters(root).items()}
        self.matrices = matrices
        self.total = self._weights(root)
        kinds = Counter(type(m) for m in root.modules() if self._is_composite(m))
        self.repeated_kinds = {kind for kind, count in kinds.items() if count > 1}

    def run(self) -> Units:
        modules, loose = self._open([self.root], forced=True)
        while len(modules) < FEWEST_UNITS:
            largest = max(modules, key=self._weights, default=None)
            if largest is None or not any(True for _ in children(largest)):
                break
            index = modules.index(largest)
            inner, more = self._open([largest], forced=True)
            modules[index : index + 1], loose = inner, loose + more
        # The same module may be registered twice; its second place is then empty.
        taken: set[int] = set()
        loose = self._take(loose, taken)
        units = [self._take(list(m.parameters()), taken) for m in modules]
        return Units([unit for unit in units if unit], loose)

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
            inner, more = self._open(_nested(module))
            units, loose = units + inner, loose + more
        return units, loose

    def _is_container(self, module: nn.Module, inside_block: bool = False) -> bool:
        if not _nested(module):
            return False
        if _is_list(module):
            return self._is_chain(module) if inside_block else self._is_open_list(module)
        inside_block = inside_block or type(module) in self.repeated_kinds
        return self._repeats_blocks(module) or any(
            self._is_container(child, inside_block) for child in _nested(module)
        )

    def _is_open_list(self, module: nn.Module) -> bool:
        # A list without a forward of its own runs piece by piece, wherever the pieces stand.
        if not isinstance(module, nn.Sequential) or any(map(self._is_composite, _entries(module))):
            return True
        count = self._weights(module)
        is_body = module in _nested(self.root) and 2 * count >= self.total
        return count > LONGEST_STEM or (count > 1 and is_body)

    def _repeats_blocks(self, module: nn.Module) -> bool:
        if type(module) not in self.repeated_kinds:
            return self._has_repeated(_entries(module))
        # One of many stages, or one of many blocks? Two attentions inside a block are no reason
        # to split it, nor are parallel branches; a list of blocks, or nothing but blocks, is what a
        # stage has.
        nested = _nested(module)
        if any(_is_list(child) and self._is_chain(child) for child in nested):
            return True
        return len({type(child) for child in nested}) == 1 and self._has_repeated(nested)

    def _is_chain(self, module: nn.Module) -> bool:
        """Tell a list of blocks from a list of parallel branches, which are lists themselves."""
        is_sequence = isinstance(module, nn.Sequential)
        return self._has_repeated(_entries(module) if is_sequence else _nested(module))

    def _has_repeated(self, modules: list[nn.Module]) -> bool:
        kinds = Counter(type(m) for m in modules if self._is_composite(m))
        return any(count > 1 for count in kinds.values())

    def _is_composite(self, module: nn.Module) -> bool:
        return not _is_list(module) and self._weights(module) > 1

    def _weights(self, module: nn.Module) -> int:
        """Count the modules below that hold a matrix or a kernel of their own."""
        return sum(
            any(id(p) in self.matrices for p in m.parameters(recurse=False))
            for m in module.modules()
        )


def _nested(module: nn.Module) -> list[nn.Module]:
    return [child for _, child in children(module)]


def _entries(module: nn.Module) -> list[nn.Module]:
    """List a module's children, those of its lists in their place."""
    found = []
    for child in _nested(module):
        found += _entries(child) if _is_list(child) else [child]
    return found


def _is_list(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, (nn.ModuleList, nn.ModuleDict))
