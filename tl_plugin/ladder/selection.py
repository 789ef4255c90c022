"""Which rungs a config has, and which of them are climbed, each after those that it builds on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from tl_plugin.stack.messages import did_you_mean
from tl_plugin.strategies import overlay_path

from .rungs import DATA_NEEDS, DEFAULT_RUNGS, SOURCE, SOURCE_FREE_RUNGS, Rung

SETTINGS = ('target_dataloader', 'labelled_target_dataloader', 'rungs', 'notes', 'source_free')


def read_rungs(settings: Mapping) -> dict[str, Rung]:
    """Merge the config's ``ladder.rungs`` over the default rungs.

    Args:
        settings: The config's ``ladder``: ``target_dataloader``, ``labelled_target_dataloader``,
            ``rungs``, a dict ``name -> fields of Rung that differ``, where a new name adds a rung,
            and other strategies replace a rung's options, too,
            ``notes``, sentences on the data that are copied into the results, and ``source_free``,
            whether there are no source images, so that :data:`SOURCE_FREE_RUNGS` take the place of
            the default ones.

    Returns:
        Name to rung, in order of cost: the default ones, then the added ones, of which those that
        learn from the source alone, as ``source_only`` does, come after that one.

    Raises:
        ValueError: If a key, a field or a rung to start from doesn't exist.

    Example:
        >>> rungs = read_rungs({'rungs': {'dann': {'start': 'fine_tune'}}})
        >>> list(rungs)[:3], rungs['dann'].start
        (['source_only', 'adabn', 'frozen_alignment'], 'fine_tune')
    """
    _check_names(settings, SETTINGS, 'ladder')
    base = SOURCE_FREE_RUNGS if settings.get('source_free') else DEFAULT_RUNGS
    rungs = {rung.name: rung for rung in base}
    fields = [item.name for item in dataclasses.fields(Rung) if item.name != 'name']
    for name, changes in (settings.get('rungs') or {}).items():
        _check_names(changes, fields, f'ladder.rungs.{name}')
        if name in rungs:
            # A rung's own options are of its own strategies.
            own = dict(options={}, start_options={}) if 'strategies' in changes else {}
            rungs[name] = dataclasses.replace(rungs[name], **{**own, **changes})
        else:
            rungs[name] = Rung(name, **{'strategies': (), **changes})
        _check_strategies(rungs[name], changes.get('strategies', rungs[name].strategies))
    rungs = _by_cost(rungs, base)
    for rung in rungs.values():
        for other in rung.towards or (None,):
            towards = (other,) if other else ()
            below({**rungs, rung.name: dataclasses.replace(rung, towards=towards)}, rung.name)
    return rungs


def _by_cost(rungs: Mapping[str, Rung], base: Sequence[Rung]) -> dict[str, Rung]:
    default, *others = [rung.name for rung in base]
    added = [name for name in rungs if name not in (default, *others)]
    alike = [name for name in added if rungs[name].data == SOURCE and not rungs[name].start]
    last = [name for name in added if name not in alike]
    return {name: rungs[name] for name in (default, *alike, *others, *last)}


def _check_strategies(rung: Rung, given: object) -> None:
    if isinstance(given, str) or not given:
        raise ValueError(
            f'ladder.rungs.{rung.name}.strategies must be a list with at least one strategy, '
            f"['source_only'] say, got {given!r}"
        )
    for name in given:
        overlay_path(name)


def below(rungs: Mapping[str, Rung], name: str) -> list[str]:
    """Return the rungs that have to be climbed before ``name``, first one first.

    Raises:
        ValueError: If a rung builds on one that doesn't exist, or on itself.
    """
    found: list[str] = []

    def visit(upper: str, path: tuple[str, ...]) -> None:
        for lower in rungs[upper].builds_on:
            if lower in path:
                raise ValueError(
                    f'ladder.rungs.{name} starts from itself, by way of {[*path[1:], lower]}'
                )
            if lower not in rungs:
                mixes = 'ingredients' if lower in rungs[upper].ingredients else 'towards'
                key = 'start' if lower == rungs[upper].start else mixes
                raise ValueError(
                    f'ladder.rungs.{upper}.{key} is {lower!r}, which is no rung; there are '
                    f'{list(rungs)}'
                )
            visit(lower, (*path, lower))
            if lower not in found:
                found.append(lower)

    visit(name, (name,))
    return found


def select_rungs(
    rungs: Mapping[str, Rung],
    names: Iterable[str] | None,
    settings: Mapping,
    has_batch_norm: Callable[[], bool] = lambda: True,
    not_validated: Mapping[str, str] = MappingProxyType({}),
    has_own_weights: Callable[[], bool] = lambda: False,
    unfit: Callable[[Rung], str | None] = lambda rung: None,
) -> tuple[list[Rung], dict[str, str]]:
    """Select the rungs to climb, with those that they build on, in order of cost.

    Args:
        rungs: All rungs.
        names: Names of the requested rungs; None for all that the config has data for.
        settings: The config's ``ladder``.
        has_batch_norm: Returns whether the network has batch norms; called if a rung needs them.
        not_validated: Domains whose validation can't choose a rung -> why.
        has_own_weights: Returns whether the config names weights for the network below the head;
            called if a rung prefers these.
        unfit: Returns why a rung doesn't fit the network; None where it does.

    Returns:
        The rungs, each with at most one rung ``towards``; and the rungs left out -> why.

    Raises:
        ValueError: If there is no such rung, or one asked for by name can't be climbed.
    """
    names = None if names is None else list(names)
    _check_names(names or [], rungs, '--rungs')
    rungs = {
        name: dataclasses.replace(rung, start=None)
        if rung.prefers_own_weights and (names is None or name in names) and has_own_weights()
        else rung
        for name, rung in rungs.items()
    }
    usual = [name for name, rung in rungs.items() if rung.by_default]
    missing = {}
    for rung in rungs.values():
        if rung.name in (usual if names is None else names):
            reason = _missing(rung, settings, has_batch_norm, not_validated) or unfit(rung)
            if reason:
                missing[rung.name] = reason
    rungs = {
        name: _choose_mixed(rungs, rung, names, settings, not_validated)
        for name, rung in rungs.items()
    }
    for name in rungs:
        if name in (usual if names is None else names) and name not in missing:
            lacking = {
                lower: _missing(rungs[lower], settings, not_validated=not_validated)
                for lower in below(rungs, name)
            }
            reasons = [f'it builds on {lower}: {why}' for lower, why in lacking.items() if why]
            missing.update({name: reasons[0]} if reasons else {})
    if names is None:
        names = [name for name in usual if name not in missing]
    for name in names:
        if name in missing:
            raise ValueError(f"rung {name!r} can't be climbed: {missing[name]}")
    wanted = {lower for name in names for lower in below(rungs, name)} | set(names)
    return [rungs[name] for name in _in_order(rungs) if name in wanted], missing


def _missing(
    rung: Rung,
    settings: Mapping,
    has_batch_norm: Callable[[], bool] = lambda: True,
    not_validated: Mapping[str, str] = MappingProxyType({}),
) -> str | None:
    """Return what a rung lacks in words; None where it lacks nothing."""
    need = DATA_NEEDS[rung.data]
    if need and not settings.get(need):
        hint = '; --target-labels writes one, beside --source and --target'
        hint *= need == 'labelled_target_dataloader'
        return f'the config has no ladder.{need}, dict(dataset=dict(...)){hint}'
    if rung.needs_batch_norm and not has_batch_norm():
        return 'the network has no batch norm whose statistics could be adapted'
    for domain in rung.validates:
        if domain in not_validated:
            return f'it needs validation images of the {domain}, and {not_validated[domain]}'
    return None


def _choose_mixed(
    rungs: Mapping[str, Rung],
    rung: Rung,
    names: Sequence[str] | None,
    settings: Mapping,
    not_validated: Mapping[str, str],
) -> Rung:
    """Select the rungs that give the other models: those asked for, or else those with data."""

    def ready(known: Sequence[str]) -> list[str]:
        usual = [name for name in known if rungs[name].by_default]
        lacking = [_missing(rungs[name], settings, not_validated=not_validated) for name in usual]
        return [name for name, reason in zip(usual, lacking) if not reason]

    asked = [name for name in rung.towards if name in (names or ())]
    towards = (*asked, *ready(rung.towards), *rung.towards)[:1]
    asked = [name for name in rung.ingredients if name in (names or ())]
    found = asked or ready(rung.ingredients)
    return dataclasses.replace(rung, towards=towards, ingredients=found or rung.ingredients)


def _in_order(rungs: Mapping[str, Rung]) -> list[str]:
    """Sort the rungs so that each comes after those that it builds on, in the given order."""
    ordered: list[str] = []
    for name in rungs:
        ordered += [item for item in (*below(rungs, name), name) if item not in ordered]
    return ordered


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(
                f'{where}: there is no {name!r}.{did_you_mean(name, known)} '
                f'Known: {", ".join(known)}'
            )
