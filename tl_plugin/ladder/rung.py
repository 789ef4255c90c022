"""What a rung of the ladder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SOURCE = 'source'
TARGET = 'target'
LABELLED_TARGET = 'labelled_target'
SOURCE_AND_TARGET = 'source+target'
SOURCE_AND_LABELLED = 'source+labelled_target'
ALL = 'all'
TWO_MODELS = 'two_models'

# What each kind of data needs from the config's `ladder`.
DATA_NEEDS = {
    SOURCE: None,
    TARGET: 'target_dataloader',
    LABELLED_TARGET: 'labelled_target_dataloader',
    SOURCE_AND_TARGET: 'target_dataloader',
    SOURCE_AND_LABELLED: 'labelled_target_dataloader',
    ALL: 'target_dataloader',
    TWO_MODELS: None,
}

# Strategies that do nothing for a network without batch norm.
BATCH_NORM_STRATEGIES = ('adabn',)

# Strategies that choose, measure or compare by validation images -> of which domains.
VALIDATION_STRATEGIES = {
    'interpolation': (SOURCE, TARGET),
    'retention': (SOURCE,),
    'quality_matched': (SOURCE,),
}


@dataclass(frozen=True)
class Rung:
    """One way to meet the target: overlays over the config, data to learn from, a place to start.

    Args:
        name: The rung's folder and its row in the table.
        strategies: Overlays, merged left to right; none where the config is the rung as it is.
        data: What it learns from. ``'source'``: the config's ``train_dataloader``.
            ``'target'``: ``ladder.target_dataloader`` without labels, given to the strategies'
            hooks. ``'labelled_target'``: ``train_dataloader`` with
            ``ladder.labelled_target_dataloader`` merged over it. ``'source+target'``: source, and
            ``ladder.target_dataloader`` without labels. ``'source+labelled_target'``: the source
            and the labelled target images together, the latter repeated until they are a quarter.
            ``'all'``: source and ``ladder.target_dataloader``, and the labelled target images among
            the source's, where there are some. ``'two_models'``: what ``start`` and ``towards``
            learned; images of both domains for batch statistics, where the config has them.
        start: Rung whose last checkpoint of the same seed it starts from. None: the config's own
            start (``load_from``, ``init_cfg``).
        options: Config keys merged last, over the overlays.
        about: What it does, in plain words, for the report.
        towards: Rungs that may give ``train_cfg.adapted``, the second of two models: the first of
            them that is climbed does.

    Raises:
        ValueError: If ``data`` is none of these.
    """

    name: str
    strategies: tuple[str, ...]
    data: str = SOURCE
    start: str | None = None
    options: Mapping = field(default_factory=dict)
    about: str = ''
    towards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data not in DATA_NEEDS:
            raise ValueError(
                f'ladder.rungs.{self.name}.data must be one of {sorted(DATA_NEEDS)}, '
                f'got {self.data!r}'
            )
        object.__setattr__(self, 'strategies', tuple(self.strategies))
        object.__setattr__(self, 'towards', tuple(self.towards))

    @property
    def stands_on(self) -> tuple[str, ...]:
        """Rungs that have to be climbed before it; of ``towards``, the first one."""
        return (*filter(None, [self.start]), *self.towards[:1])

    @property
    def needs_batch_norm(self) -> bool:
        """Whether it does nothing for a network without batch norm."""
        return any(name in BATCH_NORM_STRATEGIES for name in self.strategies)

    @property
    def validates(self) -> tuple[str, ...]:
        """Domains of whose validation images it can't do without."""
        named = (VALIDATION_STRATEGIES.get(name, ()) for name in self.strategies)
        return tuple(dict.fromkeys(domain for domains in named for domain in domains))
