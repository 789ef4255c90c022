"""Find the layer that each parameter of a model belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.logging import print_log
from torch import nn

from tl_plugin.stack.model_wrappers import parameters, strip, unwrap
from tl_plugin.stack.protocol import training_only

from .arrange import arrange
from .selection import LayerSpec, match_names, nearest_names, parse_depths


class LayerMap:
    """Parameter -> depth, for any model. 0 is the stem, ``num_layers - 1`` the head.

    The deepest layer holds exactly what isn't backbone: neck, head, discriminators; the
    classifier where a whole model is wrapped. Depths come from the model's ``get_layer_depth``
    (mmpretrain), else from its ``group_matcher`` (timm), else from the order in which its blocks
    run in a forward pass without data. Every parameter has one depth, shared
    ones have the depth of their first name, and no depth but the deepest can be empty.

    Example:
        >>> from torch import nn
        >>> layers = LayerMap.from_model(nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Linear(30, 10)))
        >>> layers.num_layers
        3
        >>> layers.names(0)
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(
        self,
        depths: Mapping[str, int],
        num_layers: int,
        kinds: Mapping[str, frozenset[str]],
        aliases: Mapping[str, str],
        above: Mapping[str, int] | None = None,
    ) -> None:
        self.num_layers = num_layers
        self._depths = dict(depths)
        self._above = dict(above or {})
        self._kinds = dict(kinds)
        self._aliases = dict(aliases)

    @classmethod
    def from_model(cls, model: nn.Module) -> LayerMap:
        """Find the layers of a model, which stays untouched.

        Args:
            model: Any model, also wrapped for distribution or compiled: names are those of
                ``named_parameters()`` of the unwrapped model.

        Returns:
            Its layers.
        """
        layers, head, above = arrange(model)
        by_name = {name: depth for depth, layer in enumerate(layers) for name in layer}
        by_name.update(dict.fromkeys(head, len(layers)))
        model = unwrap(model)
        depths = {name: by_name[name] for name in parameters(model)}
        return cls(depths, len(layers) + 1, _kinds(model), _aliases(model), above)

    training_only = staticmethod(training_only)

    def depth(self, param_name: str) -> int:
        """Look up the depth of a parameter.

        Args:
            param_name: Its name, with or without the prefixes that wrappers add.

        Returns:
            Its depth, from 0 to ``num_layers - 1``.

        Raises:
            KeyError: If the model has no such parameter.
        """
        return self._depths[self._known(param_name)]

    def layers_above(self, param_name: str) -> int:
        """Count the layers above a parameter, the power of its layer-wise learning rate.

        As mmpretrain and timm count them, who put the final norm of some backbones with the head
        while it stays a part of the backbone here; else what ``depth`` says.

        Args:
            param_name: Its name, with or without the prefixes that wrappers add.

        Returns:
            0 for what has the head's rate.
        """
        name = self._known(param_name)
        return self._above.get(name, self.num_layers - 1 - self._depths[name])

    def names(self, depth: int) -> list[str]:
        """List the parameters of one layer, in the model's order.

        Args:
            depth: The layer; negative values count from the head.

        Returns:
            Their names. Only a head without parameters gives an empty list.

        Raises:
            ValueError: If there's no such layer.
        """
        (wanted,) = parse_depths(depth, self.num_layers)
        return [name for name, value in self._depths.items() if value == wanted]

    def modules(self, depth: int) -> list[str]:
        """Name one layer by as few modules and parameters as describe it exactly.

        Args:
            depth: The layer; negative values count from the head.

        Returns:
            The names of the largest modules that lie wholly in the layer, and of the parameters
            that lie in none of these.
        """
        inside = set(self.names(depth))
        outside = {
            prefix for name in self._depths if name not in inside for prefix in _prefixes(name)
        }
        largest = (
            next((p for p in _prefixes(name) if p not in outside), name)
            for name in self._depths
            if name in inside
        )
        return list(dict.fromkeys(largest))

    def select(
        self,
        layers: LayerSpec | None = None,
        patterns: str | Sequence[str] | None = None,
        modules: str | Sequence[str] | None = None,
    ) -> list[str]:
        """Select parameters by depth, by name or by the kind of module they're in.

        Args:
            layers: Depths: ``3``, ``':-1'`` (all but the deepest), ``'0:4'``, or a list of these.
            patterns: Regular expressions, searched for anywhere in the parameter names.
            modules: Class names of modules (``'BatchNorm2d'``, or a base class, ``'_BatchNorm'``);
                everything inside is selected.

        Returns:
            The names that any of these selects, in the model's order.

        Raises:
            ValueError: If nothing is asked for, or if any part of it selects nothing.
            TypeError: If a pattern or a kind of module is no text.
        """
        chosen: set[str] = set()
        if layers is not None:
            depths = parse_depths(layers, self.num_layers)
            found = [name for name, depth in self._depths.items() if depth in depths]
            chosen.update(self._report('layers', layers, found))
        for pattern in _as_list(patterns):
            chosen.update(self._report('pattern', pattern, match_names(pattern, [*self._depths])))
        for kind in _as_list(modules):
            if not isinstance(kind, str):
                raise TypeError(f'modules: expected the name of a class, got {kind!r}')
            found = [name for name, kinds in self._kinds.items() if kind in kinds]
            chosen.update(self._report('module type', kind, found))
        if layers is None and not patterns and not modules:
            raise ValueError(
                "Nothing to select by: give layers (':-1'), patterns (regular "
                'expressions over parameter names) or modules (class names).'
            )
        return [name for name in self._depths if name in chosen]

    def _report(self, what: str, wanted, found: list[str]) -> list[str]:
        if not found:
            known = sorted(set().union(*self._kinds.values()))
            fix = (
                nearest_names(wanted, known)
                if what == 'module type'
                else f'Valid depths with parameters are {sorted(set(self._depths.values()))}.'
            )
            raise ValueError(f'The {what} {wanted!r} selects no parameter. {fix}')
        print_log(
            f'The {what} {wanted!r} selects {len(found)} parameters, {found[0]} to {found[-1]}.',
            logger='current',
        )
        return found

    def _known(self, name: str) -> str:
        for known in (strip(name), strip(name).removeprefix('module.')):
            known = self._aliases.get(known, known)
            if known in self._depths:
                return known
        raise KeyError(f'The model has no parameter {name!r}. {nearest_names(name, self._depths)}')


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, (str, list, tuple)):
        raise TypeError(f'expected names or a list of them, got {value!r}')
    return [value] if isinstance(value, str) else list(value)


def _prefixes(name: str) -> list[str]:
    """List the modules above a parameter, the outermost first, then the parameter."""
    parts = name.split('.')
    return ['.'.join(parts[:i]) for i in range(1, len(parts) + 1)]


def _kinds(model: nn.Module) -> dict[str, frozenset[str]]:
    """Name the classes, and their base classes, of all modules around each parameter."""
    classes: dict[str, set[str]] = {}
    for path, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__ if kind is not object}
        classes.setdefault(strip(path), set()).update(kinds - {'Module'})
    return {
        name: frozenset().union(*(classes.get(p, ()) for p in ['', *_prefixes(name)]))
        for name in parameters(model)
    }


def _aliases(model: nn.Module) -> dict[str, str]:
    """Map the further names of shared parameters to the first one."""
    first: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {strip(name): first.setdefault(id(value), strip(name)) for name, value in every}
