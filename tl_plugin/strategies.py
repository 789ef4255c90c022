"""Find an overlay by name and merge it over a config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from tl_plugin.stack.messages import did_you_mean
from tl_plugin.stack.options import type_name

# What an overlay's `type` may replace. Anything else was put into the config on purpose and would
# be lost silently. '' is a config that names no type.
_STOCK_LOOPS = ('', 'EpochBasedTrainLoop', 'IterBasedTrainLoop')
_REPLACEABLE = {
    ('model', 'AdaptationClassifier'): ('ImageClassifier',),
    ('model', 'LoRAClassifier'): ('ImageClassifier', 'AdaptationClassifier'),
    ('model', 'TestTimeClassifier'): ('ImageClassifier', 'AdaptationClassifier'),
    ('train_cfg', 'AdaptationTrainLoop'): _STOCK_LOOPS,
    ('train_cfg', 'CachedFeatureTrainLoop'): _STOCK_LOOPS,
    ('train_cfg', 'SourceFreeTrainLoop'): _STOCK_LOOPS,
}

#: Strategies whose loop takes no training step, and those that do something in it all the same.
_WITHOUT_STEPS = ('frozen_alignment', 'interpolation', 'no_training')
_BESIDE_THEM = ('adabn', 'bottleneck', 'sar', 'similarity', 'source_only', 'tent')
#: Strategies that fit the last layer to features with the source model's batch statistics: on PACS
#: photo to cartoon (configs/pacs, before the two were refused together), adabn took
#: frozen_alignment from 55.2% to 38.6% of the target and from 88.6% to 44.6% of the source.
_WITH_OLD_STATISTICS = ('frozen_alignment', 'self_training')

_FIX = {
    'train_cfg': (
        ': a run has one loop, so take one of the strategies that set it, or give the config a '
        'stock one, train_cfg=dict(by_epoch=True, max_epochs=...)'
    ),
    'model': (
        ': where both are of this package, name the other strategy first; else put the network '
        'into an ImageClassifier, a timm model as '
        "backbone=dict(type='PooledTimmBackbone', model_name=...)"
    ),
}


def configs_dir() -> Path:
    """Find the folder of configs that came with this copy of the package.

    Returns:
        ``configs/`` of the checkout that holds the package, or ``tl_plugin/.mim/configs`` of an
        installed wheel.

    Raises:
        FileNotFoundError: If neither is there.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    shipped = package / '.mim' / 'configs'
    if (checkout / 'setup.py').is_file() and (checkout / 'configs' / 'strategies').is_dir():
        return checkout / 'configs'
    if (shipped / 'strategies').is_dir():
        return shipped
    raise FileNotFoundError(
        f'found no configs of tl_plugin: expected {checkout / "configs"} in a checkout or '
        f'{shipped} in an installed copy; reinstall mmpretrain-tl-plugin'
    )


def available_strategies() -> dict[str, Path]:
    """Map each strategy that ``--strategy`` takes to its overlay file, sorted by name."""
    return {path.stem: path for path in sorted((configs_dir() / 'strategies').glob('*.py'))}


def overlay_path(name: str) -> Path:
    """Return the overlay file of a strategy.

    Args:
        name: A name from :func:`available_strategies`, or the path of an overlay of your own
            (anything that ends in ``.py``).

    Raises:
        ValueError: If there is no such strategy; names the nearest ones.
        FileNotFoundError: If a path was given and no file is there.
    """
    if name.endswith('.py'):
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f'no overlay at {path.absolute()}')
        return path
    known = available_strategies()
    if name not in known:
        raise ValueError(
            f'unknown strategy {name!r}.{did_you_mean(name, known, 3, cutoff=0.4)} The strategies '
            f'are {", ".join(known)}; the path of an overlay file (*.py) works too'
        )
    return known[name]


def describe(name: str) -> str:
    """Describe a strategy in one sentence, the first line of its overlay.

    >>> print(describe('dann'))
    DANN: features that classify the source and don't reveal the domain.
    """
    return headline(overlay_path(name))


def headline(config: Path) -> str:
    """Return the first line of a config, which describes it."""
    return config.read_text(encoding='utf-8').split('\n', 1)[0].lstrip('# ')


def apply_strategies(cfg: Config, names: Sequence[str]) -> Config:
    """Merge overlays over a config, left to right.

    Dicts merge key by key (``_delete_=True`` replaces), ``custom_hooks`` lists append, the imports
    of ``custom_imports`` are united, everything else is replaced.

    Args:
        cfg: Any mmpretrain config. It isn't changed.
        names: Strategies to merge, see :func:`overlay_path`.

    Returns:
        A new config, which any of mmpretrain's tools can run.

    Raises:
        ValueError: If a name is unknown or given twice, an overlay would replace a component that
            it can't stand in for, or one strategy would take back what another one sets or leave it
            without effect. An overlay file of your own may.
        TypeError: If a part of an overlay is of another form.

    Example:
        >>> cfg = Config(dict(model=dict(type='ImageClassifier'), train_cfg=dict(by_epoch=True)))
        >>> apply_strategies(cfg, ['dann']).model.type
        'AdaptationClassifier'
    """
    if isinstance(names, str):
        names = [names]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f'each strategy can be applied once, {", ".join(twice)} came twice')
    merged = copy.deepcopy(cfg)
    earlier: dict[str, dict] = {}
    for name in names:
        overlay = Config.fromfile(overlay_path(name), import_custom_modules=False)
        _merge(merged, overlay, name, earlier)
    _check_combinations(names)
    if merged.get('default_scope') is None:
        # A config of classes can do without, but overlays name components as mmpretrain does.
        merged.default_scope = 'mmpretrain'
    return merged


def _merge(cfg: Config, overlay: Config, name: str, earlier: dict[str, dict]) -> None:
    changes = overlay.to_dict()
    _check_forms(changes, name)
    if changes.get('custom_imports'):
        import_modules_from_strings(**changes['custom_imports'])
    _check_replaced_types(cfg, changes, name)
    if not name.endswith('.py'):
        _check_contradictions(changes, name, earlier)
        earlier[name] = overlay.to_dict()
    hooks = changes.pop('custom_hooks', None)
    if hooks:
        present = list(cfg.get('custom_hooks') or [])
        # The very same hook, which several overlays bring, is needed once.
        known = [_comparable(hook) for hook in present]
        new = [hook for hook in hooks if _comparable(hook) not in known]
        changes['custom_hooks'] = [*present, *new]
    imports = changes.pop('custom_imports', None)
    if imports:
        changes['custom_imports'] = unite_imports(cfg.get('custom_imports'), imports)
    train_cfg = cfg.get('train_cfg')
    if train_cfg and 'type' in changes.get('train_cfg', {}):
        # mmengine takes either; the loop reads the unit from max_epochs or max_iters.
        train_cfg.pop('by_epoch', None)
    cfg.merge_from_dict(_without_needless_deletes(changes, cfg._cfg_dict))


def _check_forms(changes: dict, name: str) -> None:
    """Refuse an overlay with parts of a form that mmengine doesn't take."""
    forms = {'custom_imports': dict, 'model': dict, 'train_cfg': dict, 'optim_wrapper': dict}
    for key, form in {**forms, 'custom_hooks': list}.items():
        part = changes.get(key)
        if part is not None and not isinstance(part, form):
            raise TypeError(f'strategy {name!r}: {key} must be a {form.__name__}, got {part!r}')
    imports = changes.get('custom_imports') or {}
    unknown = set(imports) - {'imports', 'allow_failed_imports'}
    if unknown or (imports and not isinstance(imports.get('imports'), (str, list))):
        raise TypeError(
            f'strategy {name!r}: custom_imports must be dict(imports=[...], '
            f'allow_failed_imports=False), got {imports!r}'
        )
    for hook in changes.get('custom_hooks') or []:
        if not isinstance(hook, dict) or 'type' not in hook:
            raise TypeError(
                f'strategy {name!r}: custom_hooks holds {hook!r}, expected dict(type=...)'
            )


def _without_needless_deletes(changes: dict, old: Any) -> dict:
    """Remove ``_delete_`` where nothing is replaced, as mmengine would leave it in the config."""
    found = {}
    for key, value in changes.items():
        if isinstance(value, dict):
            there = isinstance(old, dict) and key in old
            value = _without_needless_deletes(value, old[key] if there else None)
            if not there:
                value.pop('_delete_', None)
        found[key] = value
    return found


def unite_imports(old: dict | None, new: dict) -> dict:
    """Unite two ``custom_imports``, without naming a module twice.

    >>> unite_imports(dict(imports='mine'), dict(imports=['tl_plugin']))
    {'imports': ['mine', 'tl_plugin'], 'allow_failed_imports': False}
    """
    old = old or {}
    modules = [*_as_list(old.get('imports')), *_as_list(new.get('imports'))]
    return {
        'imports': list(dict.fromkeys(modules)),
        # False if one side needs its imports.
        'allow_failed_imports': bool(
            old.get('allow_failed_imports') and new.get('allow_failed_imports')
        ),
    }


def _as_list(imports: str | Sequence[str] | None) -> list[str]:
    if imports is None:
        return []
    return [imports] if isinstance(imports, str) else list(imports)


def _comparable(hook: Any) -> Any:
    """Return a hook's config with the bare name of its type, however the config names it."""
    return {**hook, 'type': type_name(hook)} if isinstance(hook, dict) else hook


def _check_replaced_types(cfg: Config, changes: dict, name: str) -> None:
    for (key, new_type), replaceable in _REPLACEABLE.items():
        change = changes.get(key) or {}
        if type_name(change) != new_type or change.get('_delete_'):
            continue
        old_type = type_name(cfg.get(key) or {})
        if old_type != new_type and old_type not in replaceable:
            expected = ' or '.join(kind or 'no type' for kind in (*replaceable, new_type))
            raise ValueError(
                f'strategy {name!r} makes {key}.type {new_type!r}, which can stand in for '
                f'{expected}, but this config has {old_type!r}{_FIX.get(key, "")}'
            )


def _check_contradictions(changes: dict, name: str, earlier: dict[str, dict]) -> None:
    """Refuse what takes back what an earlier strategy has set."""
    for other, before in earlier.items():
        for path, old, new in _different(before, changes):
            # Which model stands in for which is checked for all configs alike.
            if path not in ('model.type', 'custom_hooks', 'custom_imports'):
                raise ValueError(
                    f'strategies {other!r} and {name!r} both set {path}, to {old!r} and {new!r}, '
                    'and of the first nothing would be left: take one of the two, or set what you '
                    "want by --cfg-options or in an overlay file of your own, '--strategy mine.py'"
                )


def _different(old: dict, new: dict, at: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of each option that both set, not alike, and both values."""
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _different(old[key], new[key], f'{at}{key}.')
        elif old[key] != new[key]:
            yield f'{at}{key}', old[key], new[key]


def _check_combinations(names: Sequence[str]) -> None:
    """Refuse strategies that would do nothing, or harm, beside another."""
    known = available_strategies()
    for fitted in set(names) & set(_WITH_OLD_STATISTICS):
        if 'adabn' in names:
            raise ValueError(
                f"strategy {fitted!r} fits the last layer to features with the source model's "
                "batch statistics, and 'adabn' replaces these: take one of the two"
            )
    for loop in set(names) & set(_WITHOUT_STEPS):
        idle = [name for name in names if name in known and name not in (loop, *_BESIDE_THEM)]
        if idle:
            raise ValueError(
                f'strategy {loop!r} takes no training step, so that {", ".join(idle)} would do '
                f'nothing: leave out the one or the other; what acts without a step is '
                f'{", ".join(_BESIDE_THEM)}'
            )
