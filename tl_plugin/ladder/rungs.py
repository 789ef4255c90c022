"""What the rungs are, and how a config adds to them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SOURCE = 'source'
LABELLED_TARGET = 'labelled_target'
SOURCE_AND_TARGET = 'source+target'

# What each kind of training data needs from the config's `ladder`.
DATA_NEEDS = {
    SOURCE: None,
    LABELLED_TARGET: 'labelled_target_dataloader',
    SOURCE_AND_TARGET: 'target_dataloader',
}

SETTINGS = ('target_dataloader', 'labelled_target_dataloader', 'rungs')


@dataclass(frozen=True)
class Rung:
    """One way to meet the target: overlays over the config, data to train on, a place to start.

    Args:
        name: The rung's folder and its row in the table.
        strategies: Overlays, merged left to right; none where the config is the rung as it is.
        data: What it trains on. ``'source'``: the config's ``train_dataloader``.
            ``'labelled_target'``: the same with ``ladder.labelled_target_dataloader`` merged over
            it. ``'source+target'``: source, and ``ladder.target_dataloader`` without labels.
        start: Rung whose last checkpoint of the same seed it starts from. None: the config's own
            start (``load_from``, ``init_cfg``).
        options: Config keys merged last, over the overlays.
        about: One sentence for the report.

    Raises:
        ValueError: If ``data`` is none of the three.
    """

    name: str
    strategies: tuple[str, ...]
    data: str = SOURCE
    start: str | None = None
    options: Mapping = field(default_factory=dict)
    about: str = ''

    def __post_init__(self) -> None:
        if self.data not in DATA_NEEDS:
            raise ValueError(
                f'ladder.rungs.{self.name}.data must be one of {sorted(DATA_NEEDS)}, '
                f'got {self.data!r}'
            )
        object.__setattr__(self, 'strategies', tuple(self.strategies))


# In order of cost.
DEFAULT_RUNGS = (
    Rung(
        'source_only',
        strategies=('source_only',),
        about='Does nothing about the target: trained on the source alone.',
    ),
    Rung(
        'feature_extraction',
        strategies=('feature_extraction',),
        data=LABELLED_TARGET,
        start='source_only',
        about='Keeps the source model and trains a new last layer on the few target labels.',
    ),
    Rung(
        'fine_tune',
        strategies=('fine_tune',),
        data=LABELLED_TARGET,
        start='source_only',
        about='Trains all weights of the source model on the few target labels, gently.',
    ),
    Rung(
        'dann',
        strategies=('dann',),
        data=SOURCE_AND_TARGET,
        about='Learns features that work on source and target alike, without target labels.',
    ),
)


def read_rungs(settings: Mapping) -> dict[str, Rung]:
    """Merge the config's ``ladder.rungs`` over the default rungs.

    Args:
        settings: The config's ``ladder``: ``target_dataloader``, ``labelled_target_dataloader`` and
            ``rungs``, a dict ``name -> fields of Rung that differ``. A new name adds a rung.

    Returns:
        Name to rung, in order of cost: the default ones, then the added ones.

    Raises:
        ValueError: If a key, a field or a rung to start from doesn't exist.

    Example:
        >>> rungs = read_rungs({'rungs': {'dann': {'start': 'source_only'}}})
        >>> list(rungs), rungs['dann'].start
        (['source_only', 'feature_extraction', 'fine_tune', 'dann'], 'source_only')
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
        start_chain(rungs, rung.name)
    return rungs


def _check_strategies(rung: Rung, given: object) -> None:
    if isinstance(given, str) or not given:
        raise ValueError(
            f'ladder.rungs.{rung.name}.strategies must be a list with at least one strategy, '
            f"['source_only'] say, got {given!r}"
        )


def start_chain(rungs: Mapping[str, Rung], name: str) -> list[str]:
    """Return the rungs that have to be climbed before ``name``, first one first.

    Raises:
        ValueError: If a rung starts from one that doesn't exist, or from itself in the end.
    """
    chain: list[str] = []
    start = rungs[name].start
    while start is not None:
        if start == name or start in chain:
            raise ValueError(f'ladder.rungs.{name} starts from itself, by way of {[start, *chain]}')
        if start not in rungs:
            raise ValueError(
                f'ladder.rungs.{name}.start is {start!r}, which is no rung; there are {list(rungs)}'
            )
        chain.insert(0, start)
        start = rungs[start].start
    return chain


def select_rungs(
    rungs: Mapping[str, Rung], names: Iterable[str] | None, settings: Mapping
) -> tuple[list[Rung], dict[str, str]]:
    """Choose the rungs to climb, with those that they start from, in order of cost.

    Args:
        rungs: All rungs.
        names: Those asked for; None asks for all that the config has data for.
        settings: The config's ``ladder``.

    Returns:
        The rungs, and for those left out name -> the setting that they miss.

    Raises:
        ValueError: If there is no such rung, or one asked for by name misses its data.
    """
    missing = {
        rung.name: DATA_NEEDS[rung.data]
        for rung in rungs.values()
        if DATA_NEEDS[rung.data] and not settings.get(DATA_NEEDS[rung.data])
    }
    if names is None:
        names = [name for name in rungs if name not in missing]
    else:
        missing = {name: need for name, need in missing.items() if name in set(names)}
        _check_names(names, rungs, '--rungs')
        for name, need in missing.items():
            raise ValueError(
                f'rung {name!r} needs ladder.{need} in the config: '
                f'ladder = dict({need}=dict(dataset=dict(...)))'
            )
    wanted = {start for name in names for start in start_chain(rungs, name)} | set(names)
    return [rungs[name] for name in _by_start(rungs) if name in wanted], missing


def _by_start(rungs: Mapping[str, Rung]) -> list[str]:
    """Order so that every rung comes after the one it starts from, else as given."""
    ordered: list[str] = []
    for name in rungs:
        ordered += [item for item in (*start_chain(rungs, name), name) if item not in ordered]
    return ordered


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f', did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'{where}: there is no {name!r}{hint} Known: {", ".join(known)}')
