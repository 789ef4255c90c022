"""Which rungs there are for a config, and which of them are climbed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from .default_rungs import DEFAULT_RUNGS
from .rung import DATA_NEEDS, Rung

SETTINGS = ('target_dataloader', 'labelled_target_dataloader', 'rungs', 'notes')


def read_rungs(settings: Mapping) -> dict[str, Rung]:
    """Merge the config's ``ladder.rungs`` over the default rungs.

    Args:
        settings: The config's ``ladder``: ``target_dataloader``, ``labelled_target_dataloader``,
            ``rungs``, a dict ``name -> fields of Rung that differ``, where a new name adds a rung,
            and ``notes``, sentences on the data that the results repeat.

    Returns:
        Name to rung, in order of cost: the default ones, then the added ones.

    Raises:
        ValueError: If a key, a field or a rung to start from doesn't exist.

    Example:
        >>> rungs = read_rungs({'rungs': {'dann': {'start': 'fine_tune'}}})
        >>> list(rungs)[:3], rungs['dann'].start
        (['source_only', 'adabn', 'quality_matched'], 'fine_tune')
    """
    _check_names(settings, SETTINGS, 'ladder')
    rungs = {rung.name: rung for rung in DEFAULT_RUNGS}
    fields = [item.name for item in dataclasses.fields(Rung) if item.name != 'name']
    for name, changes in (settings.get('rungs') or {}).items():
        _check_names(changes, fields, f'ladder.rungs.{name}')
        if name in rungs:
            rungs[name] = dataclasses.replace(rungs[name], **changes)
        else:
            rungs[name] = Rung(name, **{'strategies': (), **changes})
        _check_strategies(rungs[name], changes.get('strategies', rungs[name].strategies))
    for rung in rungs.values():
        for other in rung.towards or (None,):
            towards = (other,) if other else ()
            below({**rungs, rung.name: dataclasses.replace(rung, towards=towards)}, rung.name)
    return rungs


def _check_strategies(rung: Rung, given: object) -> None:
    if isinstance(given, str) or not given:
        raise ValueError(
            f'ladder.rungs.{rung.name}.strategies must be a list with at least one strategy, '
            f"['source_only'] say, got {given!r}"
        )


def below(rungs: Mapping[str, Rung], name: str) -> list[str]:
    """Return the rungs that have to be climbed before ``name``, first one first.

    Raises:
        ValueError: If a rung stands on one that doesn't exist, or on itself in the end.
    """
    found: list[str] = []

    def visit(upper: str, path: tuple[str, ...]) -> None:
        for lower in rungs[upper].stands_on:
            if lower in path:
                raise ValueError(
                    f'ladder.rungs.{name} starts from itself, by way of {[*path[1:], lower]}'
                )
            if lower not in rungs:
                key = 'start' if lower == rungs[upper].start else 'towards'
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
) -> tuple[list[Rung], dict[str, str]]:
    """Choose the rungs to climb, with those that they stand on, in order of cost.

    Args:
        rungs: All rungs.
        names: Those asked for; None asks for all that the config has data for.
        settings: The config's ``ladder``.
        has_batch_norm: Says whether the network has batch norms; asked if a rung depends on it.
        not_validated: Domains that the config doesn't validate on, or that give nothing to choose
            by -> why.

    Returns:
        The rungs, each with at most one rung ``towards``; and for those left out name -> why.

    Raises:
        ValueError: If there is no such rung, or one asked for by name can't be climbed.
    """
    names = None if names is None else list(names)
    _check_names(names or [], rungs, '--rungs')
    missing = {}
    for rung in rungs.values():
        if names is None or rung.name in names:
            reason = _missing(rung, settings, has_batch_norm, not_validated)
            if reason:
                missing[rung.name] = reason
    rungs = {
        name: _choose_towards(rungs, rung, names, settings, not_validated)
        for name, rung in rungs.items()
    }
    for name in rungs:
        if name in (rungs if names is None else names) and name not in missing:
            lacking = {
                lower: _missing(rungs[lower], settings, not_validated=not_validated)
                for lower in below(rungs, name)
            }
            reasons = [f'it stands on {lower}: {why}' for lower, why in lacking.items() if why]
            missing.update({name: reasons[0]} if reasons else {})
    if names is None:
        names = [name for name in rungs if name not in missing]
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
    """What a rung lacks, in words."""
    need = DATA_NEEDS[rung.data]
    if need and not settings.get(need):
        hint = '; --target-labels writes one, beside --source and --target'
        hint *= need == 'labelled_target_dataloader'
        return f'the config has no ladder.{need}, dict(dataset=dict(...)){hint}'
    if rung.needs_batch_norm and not has_batch_norm():
        return 'the network has no batch norm whose statistics could be adapted'
    for domain in rung.validates:
        if domain in not_validated:
            return f'it goes by validation images of the {domain}, and {not_validated[domain]}'
    return None


def _choose_towards(
    rungs: Mapping[str, Rung],
    rung: Rung,
    names: Sequence[str] | None,
    settings: Mapping,
    not_validated: Mapping[str, str],
) -> Rung:
    """Decide which rung gives the second model: one that is asked for, else one that has data."""
    asked = [name for name in rung.towards if name in (names or ())]
    ready = [
        name
        for name in rung.towards
        if not _missing(rungs[name], settings, not_validated=not_validated)
    ]
    return dataclasses.replace(rung, towards=(*asked, *ready, *rung.towards)[:1])


def _in_order(rungs: Mapping[str, Rung]) -> list[str]:
    """Order so that every rung comes after those it stands on, else as given."""
    ordered: list[str] = []
    for name in rungs:
        ordered += [item for item in (*below(rungs, name), name) if item not in ordered]
    return ordered


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f', did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'{where}: there is no {name!r}{hint} Known: {", ".join(known)}')
