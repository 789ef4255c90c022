"""Learning rates that shrink from the head to the stem, for any model."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIMIZERS
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from tl_plugin.reporting.tables import make_table, table_text
from tl_plugin.stack.model_wrappers import matrix_ids, parameters, unwrap

from ..freezing.trainable import refuse_flattened
from ..layers import LayerMap
from .group_rules import GroupRules, Setting
from .options import LayerwiseOptions


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerwiseLROptimWrapperConstructor(DefaultOptimWrapperConstructor):
    r"""Give each layer of any model its own learning rate, in few parameter groups.

    The rate of a layer is ``lr * base_lr_mult * layer_decay_rate ** n`` with n layers above it,
    times ``head_lr_mult`` at the deepest layer (neck, head, discriminators). Layers are counted as
    mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` counts them wherever that one works,
    and as timm does for its networks: where they put a backbone's final norm with the head, it has
    the head's rate, without ``head_lr_mult``. Every parameter is in exactly one group, shared ones
    once, whether it is frozen or not, so that unfreezing needs no new group and checkpoints fit.
    Parameters with equal settings in one layer share a group: at most two a layer, those of such a
    norm, and what ``custom_keys`` adds. Groups have a ``name`` and a ``layer`` and are logged as a
    table, the head's first, since mmengine logs the first group's rate.

    Paper: Clark et al., "ELECTRA", ICLR 2020, arXiv 2003.10555 (layer-wise decay); Howard and
    Ruder, "ULMFiT", ACL 2018, arXiv 1801.06146 (discriminative fine-tuning).

    Args:
        optim_wrapper_cfg: The config of the optimizer wrapper, with that of the optimizer.
        paramwise_cfg: The options, all of them optional:

            - ``layer_decay_rate``: factor from one layer to the next shallower one, above 0 and
              up to 1. Defaults to 1.
            - ``base_lr_mult``: factor on all learning rates. Defaults to 1.
            - ``head_lr_mult``: further factor on the deepest layer's. Defaults to 1.
            - ``custom_keys``: regular expression over parameter names -> ``dict(lr_mult=,
              decay_mult=)`` and further optimizer options (``betas``). The longest key that is
              found in a name counts. Its ``lr_mult`` comes on top of the layer's. What an entry
              doesn't set follows the other rules.
            - ``norm_decay_mult``, ``bias_decay_mult``, ``dwconv_decay_mult``,
              ``flat_decay_mult``: factors on the weight decay of norm layers, biases, depth-wise
              convolutions, and all other tensors of at most one dimension; the first that
              applies counts. What the model itself lists as ``no_weight_decay()`` isn't decayed.
            - ``bias_lr_mult``: factor on the learning rate of biases outside norm layers.

    Raises:
        ValueError: An unknown option; a factor out of range; an entry of ``custom_keys`` that
            matches nothing, unless all it sets is ``decay_mult``, which stock configs list for
            variants of a backbone: that is a warning.

    Example:
        >>> # in a config
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        ...     constructor='LayerwiseLROptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0., flat_decay_mult=0.,
        ...                        custom_keys={r'layers\.11\..*qkv': dict(lr_mult=0.5)}))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.options = LayerwiseOptions.read(paramwise_cfg)
        # Without any option the base class would make a single group and not ask `add_params`.
        super().__init__(optim_wrapper_cfg, paramwise_cfg or dict(layer_decay_rate=1.0))

    def _validate_cfg(self) -> None:
        """Take learning rate and weight decay from the optimizer where the config has none."""
        kind = self.optimizer_cfg['type']
        if isinstance(kind, str):
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        defaults = {} if kind is None else inspect.signature(kind).parameters
        for name, attribute in (('lr', 'base_lr'), ('weight_decay', 'base_wd')):
            default = getattr(defaults.get(name), 'default', None)
            if getattr(self, attribute) is None and isinstance(default, (int, float)):
                setattr(self, attribute, float(default))
                # An explicit None would go to the optimizer as it is.
                self.optimizer_cfg[name] = float(default)
        _check_extras(self.options.custom_keys, defaults, self.optimizer_cfg['type'])
        if self.base_lr is None:
            raise ValueError(
                f'Layer-wise learning rates need one to start from: give the '
                f'optimizer {self.optimizer_cfg["type"]} an lr.'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper.

        Args:
            model: The model, with or without its wrapper.
        """
        refuse_flattened(model)
        # Before unwrapping: FSDP alone knows the shapes of its flat shards.
        self._layers, self._matrices = LayerMap.from_model(model), matrix_ids(model)
        # From a ConfigDict mmengine makes groups that are ConfigDicts, which torch.compile can't
        # trace.
        self.optimizer_cfg = dict(self.optimizer_cfg)
        optim_wrapper = super().__call__(unwrap(model))
        groups = optim_wrapper.optimizer.param_groups
        # MonitorCheckHook warns of schedulers that would make these rates equal.
        optim_wrapper.has_layer_rates = len({group['lr'] for group in groups}) > 1
        return optim_wrapper

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Fill in the groups of a whole model. The base class calls this.

        Args:
            params: The list to fill.
            module: The unwrapped model.
            **kwargs: Not used.
        """
        rules = GroupRules(module, self._layers, self.options, self._matrices)
        values = parameters(module)
        members: dict[Setting, list[str]] = {}
        for name, setting in rules.settings().items():
            members.setdefault(setting, []).append(name)
        usual = {s.depth: _usual_count(s.depth, members) for s in members}
        titles = {
            s: _title(s, rules.layer_lr_mult(s.depth, s.above), usual[s.depth]) for s in members
        }
        # The head first, and in each layer what decays before what doesn't.
        for setting in sorted(members, key=lambda s: (-s.depth, titles[s])):
            group = dict(
                params=[values[name] for name in members[setting]],
                name=titles[setting],
                layer=setting.depth,
                lr=self.base_lr * setting.lr_mult,
                **dict(setting.extras),
            )
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * setting.decay_mult
            params.append(group)
        print_log(
            _table(params, {titles[s]: names for s, names in members.items()}), logger='current'
        )


def _check_extras(custom_keys: dict, known: Collection[str], optimizer: str) -> None:
    """Refuse options of ``custom_keys`` that the optimizer would ignore."""
    for pattern, setting in custom_keys.items():
        unknown = [key for key in setting if key not in ('lr_mult', 'decay_mult', *known)]
        if unknown and known:
            raise ValueError(
                f'custom_keys[{pattern!r}] sets {unknown[0]!r}, which {optimizer} has not: '
                f'expected lr_mult, decay_mult or one of {", ".join(known)}.'
            )


def _usual_count(depth: int, members: dict[Setting, list[str]]) -> int:
    """Count the layers that most parameters of a layer have above them."""
    counts: dict[int, int] = {}
    for setting, names in members.items():
        if setting.depth == depth:
            counts[setting.above] = counts.get(setting.above, 0) + len(names)
    return max(counts, key=lambda above: (counts[above], above))


def _title(setting: Setting, layer_lr_mult: float, usual_count: int) -> str:
    """Name a group by its layer and by what sets it apart there."""
    decay = {0.0: 'no_decay', 1.0: 'decay'}.get(setting.decay_mult)
    parts = [f'layer_{setting.depth:02d}', decay or f'decay_x{setting.decay_mult}']
    if setting.above != usual_count:
        parts.append(f'{setting.above}_above' if setting.above else 'rate_of_head')
    if setting.lr_mult != layer_lr_mult:
        # Where the layer's own rate is 0 there is no factor from it to this one.
        parts.append(f'lr_x{setting.lr_mult / (layer_lr_mult or 1)}')
    parts += [f'{key}={value}' for key, value in setting.extras]
    return '/'.join(parts)


def _table(groups: list[dict], members: dict[str, list[str]]) -> str:
    rows = [
        (
            group['name'],
            f'{group["lr"]:.4g}',
            f'{group.get("weight_decay", 0):.4g}',
            len(group['params']),
            f'{sum(value.numel() for value in group["params"]):,}',
            members[group['name']][0],
        )
        for group in groups
    ]
    footer = (
        f'{len(groups)} groups',
        '',
        '',
        sum(len(names) for names in members.values()),
        f'{sum(value.numel() for group in groups for value in group["params"]):,}',
        '',
    )
    title = 'Optimizer groups, the head first'
    columns = ('group', 'lr', 'weight decay', 'tensors', 'weights', 'first parameter')
    return table_text(make_table(title, columns, rows, footer))
