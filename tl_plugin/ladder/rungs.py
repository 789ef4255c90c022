"""The rungs of the ladder: what a rung is, and the default ones.

Plain data, which lower rooms read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tl_plugin.stack.protocol import SOURCE, TARGET

LABELLED_TARGET = 'labelled_target'
SOURCE_AND_TARGET = 'source+target'
SOURCE_AND_LABELLED = 'source+labelled_target'
ALL = 'all'
TWO_MODELS = 'two_models'

#: Kind of data -> key of the config's ``ladder`` that it needs.
DATA_NEEDS = {
    SOURCE: None,
    TARGET: 'target_dataloader',
    LABELLED_TARGET: 'labelled_target_dataloader',
    SOURCE_AND_TARGET: 'target_dataloader',
    SOURCE_AND_LABELLED: 'labelled_target_dataloader',
    ALL: 'target_dataloader',
    TWO_MODELS: None,
}

#: Kind of data -> images that a step takes the time of for each image of its source batch, where
#: it isn't one: the target's, and their strong views. In quickstart's climb, a step with these
#: takes two to three times as long as one on source and target.
STEP_IMAGES = {SOURCE_AND_TARGET: 2, ALL: 4}

#: Strategies that have no effect on a network without batch norm.
BATCH_NORM_STRATEGIES = ('adabn',)

#: Strategies that use validation images -> the domains of these images.
VALIDATION_STRATEGIES = {
    'interpolation': (SOURCE, TARGET),
    'retention': (SOURCE,),
    'quality_matched': (SOURCE,),
}


@dataclass(frozen=True)
class Rung:
    """One way to adapt to the target: overlays over a config, data to learn from, and a start.

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
        start: Rung whose last checkpoint of the same seed it starts from. Defaults to None, the
            config's own start (``load_from``, ``init_cfg``).
        options: Config keys that are merged last, over the overlays.
        start_options: Such keys for where it starts from ``start`` and not from the config's own
            weights; ``options`` are merged over them.
        about: Description in plain words, for the report.
        towards: Rungs that may give ``train_cfg.adapted``, the second of two models. The first of
            them that is climbed gives it.
        ingredients: Rungs whose models together are ``train_cfg.adapted``: of these the ones that
            are asked for, or else those that are climbed by default and have data.
        by_default: Whether it is climbed where no rung is asked for by name. Defaults to True.
        prefers_own_weights: Whether it starts from the weights that the config itself names, where
            it names some for the whole network below the head, instead of from ``start``. Defaults
            to False.

    Raises:
        ValueError: If ``data`` is none of these.
    """

    name: str
    strategies: tuple[str, ...]
    data: str = SOURCE
    start: str | None = None
    options: Mapping = field(default_factory=dict)
    start_options: Mapping = field(default_factory=dict)
    about: str = ''
    towards: tuple[str, ...] = ()
    ingredients: tuple[str, ...] = ()
    by_default: bool = True
    prefers_own_weights: bool = False

    def __post_init__(self) -> None:
        if self.data not in DATA_NEEDS:
            raise ValueError(
                f'ladder.rungs.{self.name}.data must be one of {sorted(DATA_NEEDS)}, '
                f'got {self.data!r}'
            )
        object.__setattr__(self, 'strategies', tuple(self.strategies))
        object.__setattr__(self, 'towards', tuple(self.towards))
        object.__setattr__(self, 'ingredients', tuple(self.ingredients))

    @property
    def mixed_with(self) -> tuple[str, ...]:
        """Rungs whose models are mixed with that of ``start``; of ``towards``, the first one."""
        return (*self.towards[:1], *self.ingredients)

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Rungs that have to be climbed before it."""
        return (*filter(None, [self.start]), *self.mixed_with)

    @property
    def needs_batch_norm(self) -> bool:
        """Whether it has no effect on a network without batch norm."""
        return any(name in BATCH_NORM_STRATEGIES for name in self.strategies)

    @property
    def validates(self) -> tuple[str, ...]:
        """Domains whose validation images it needs."""
        named = (VALIDATION_STRATEGIES.get(name, ()) for name in self.strategies)
        return tuple(dict.fromkeys(domain for domains in named for domain in domains))


#: In order of cost.
DEFAULT_RUNGS = (
    Rung(
        'source_only',
        strategies=('source_only',),
        about='Trains on the source alone, without any adaptation to the target.',
    ),
    Rung(
        'adabn',
        strategies=('adabn', 'no_training'),
        data=TARGET,
        start='source_only',
        about='Trains nothing. The averages over source images by which the network normalises its '
        'features are replaced by averages over unlabelled target images. All weights stay.',
    ),
    Rung(
        'frozen_alignment',
        strategies=('frozen_alignment',),
        data=SOURCE_AND_TARGET,
        start='source_only',
        about='Trains no layer but the last. It learns the source labels, then its own surest '
        'predictions on the unlabelled target images, as many of each class, on features that are '
        'computed once and brought to one mean and deviation in both domains.',
        prefers_own_weights=True,
    ),
    Rung(
        'quality_matched',
        strategies=('quality_matched',),
        data=SOURCE_AND_TARGET,
        by_default=False,  # self_training, which matches the quality, too, was ahead on each pair
        about='Trains on source images that are blurred, darkened and so on until they look like '
        "the unlabelled target images. The labels are the source's.",
    ),
    Rung(
        'feature_extraction',
        strategies=('feature_extraction',),
        data=LABELLED_TARGET,
        start='source_only',
        about='Keeps the source model and trains a new last layer on the few target labels.',
    ),
    Rung(
        'linear_probe_then_fine_tune',
        strategies=('linear_probe_then_fine_tune',),
        data=LABELLED_TARGET,
        start='source_only',
        # tools/benchmarks/recommendations.py: 9 points or more behind the best rung on each of six
        # pairs; joint_training, which has the source images too, is ahead on both domains of each,
        # but for 0.3 points of one target.
        by_default=False,
        about='First trains the last layer alone on the few target labels, then all weights, so '
        "that a last layer that doesn't fit yet can't harm the layers below it.",
    ),
    Rung(
        'fine_tune',
        strategies=('fine_tune',),
        data=LABELLED_TARGET,
        start='source_only',
        about='Trains all weights of the source model on the few target labels, with smaller steps '
        'for layers nearer to the image.',
    ),
    Rung(
        'surgical_fine_tune',
        strategies=('surgical_fine_tune',),
        data=LABELLED_TARGET,
        start='source_only',
        # tools/benchmarks/README.md#few_labels: auto_rgn was ahead of it on the target of each of
        # four pairs; it keeps more of the source than fine_tune, and joint_training more still.
        by_default=False,
        about='Trains only the layers nearest to the image on the few target labels, so that they '
        'undo what a field camera adds; all layers above keep what they know.',
    ),
    Rung(
        'auto_rgn',
        strategies=('auto_rgn',),
        data=LABELLED_TARGET,
        start='source_only',
        by_default=False,  # never best in labelled_rungs, either
        about='Trains all weights on the few target labels, each layer at a rate by how much these '
        'images want to change it, which is measured first.',
    ),
    # Not LwF: its teacher, the source model, is often wrong on target images, and the source images
    # that it is right on aren't in this data.
    Rung(
        'fine_tune_l2_sp',
        strategies=('fine_tune', 'l2_sp'),
        data=LABELLED_TARGET,
        start='source_only',
        # The classes are the same, so that the last layer is kept near the source model, too.
        options=dict(model=dict(regularizers=dict(l2_sp=dict(exclude=[])))),
        by_default=False,  # in labelled_rungs within a point of fine_tune
        about='Trains all weights on the few target labels, with a penalty on their squared '
        'distance to the source model (L2-SP). It needs no source images, and the source model '
        "needn't be right on the target.",
    ),
    Rung(
        'lora',
        strategies=('lora',),
        data=LABELLED_TARGET,
        start='source_only',
        # The classes are the same, so that the last layer need not move far; at the full rate it
        # forgets. What is forgotten at this one: tools/benchmarks/README.md#few_labels.
        options=dict(
            optim_wrapper=dict(
                constructor='LayerwiseLROptimWrapperConstructor',
                paramwise_cfg=dict(head_lr_mult=0.1),
            )
        ),
        by_default=False,  # most convolutional networks have nothing that could be adapted
        about='Trains the last layer and, beside each linear layer below it, the product of two '
        'narrow matrices on the few target labels; all weights of the source model stay.',
    ),
    Rung(
        'joint_training',
        strategies=('source_only',),
        data=SOURCE_AND_LABELLED,
        start='source_only',
        about='Continues to train all weights on the source images mixed with the few labelled '
        'target images, which are repeated. Since source images are trained on, too, less is '
        'forgotten.',
    ),
    Rung(
        'dann',
        strategies=('dann',),
        data=SOURCE_AND_TARGET,
        start='source_only',
        # tools/benchmarks/README.md#candidate_rungs: never best on eight pairs without target
        # labels, 22 points behind on average.
        by_default=False,
        about='Learns features that work on source and target alike, without target labels.',
    ),
    Rung(
        'dann_retention',
        strategies=('dann', 'retention'),
        data=SOURCE_AND_TARGET,
        start='source_only',
        # tools/benchmarks/recommendations.py: on six pairs never ahead of dann on the target, at
        # most 0.3 points on the source, of which dann loses 1.2 at most, and as expensive.
        by_default=False,
        about='The same, with a budget of source accuracy: training stops when it is exceeded, and '
        'goes back to the last model within it.',
    ),
    Rung(
        'self_training',
        strategies=('quality_matched', 'self_training'),
        data=ALL,
        start='source_only',
        about='Uses all data: strongly augmented source images, most of them degraded until they '
        "look like the target's, labelled target images, if there are some, and labels that it "
        'gives the unlabelled ones: at first those of a last layer fitted as in frozen_alignment, '
        'then those of a slow average of itself.',
        # From the source models of whole_rungs' digits and MNIST it ended at one class for all with
        # fixed batch statistics, at 12% of the target and 10% of the source (20% and 62% with those
        # of each batch), and at 26% and 8% (47% and 63%). From ImageNet weights, on PACS photo to
        # cartoon, fixed ones are 7 points ahead on the target.
        start_options=dict(model=dict(norm_eval=False)),
        prefers_own_weights=True,
    ),
    Rung(
        'interpolation',
        strategies=('interpolation',),
        data=TWO_MODELS,
        start='source_only',
        towards=('fine_tune', 'self_training', 'dann'),
        # tools/benchmarks/README.md#candidate_rungs: on each of eight pairs, its best point on the
        # way to self_training was self_training.
        by_default=False,
        about='Trains nothing. Mixes the weights of the source model with those of the fine-tuned '
        'one (without target labels: the adapted one), in steps from one to the other, and keeps '
        "the mix that is best on the target's validation images inside the source budget.",
    ),
    Rung(
        'soup',
        strategies=('interpolation',),
        data=TWO_MODELS,
        start='source_only',
        ingredients=(
            *('fine_tune', 'surgical_fine_tune', 'auto_rgn', 'fine_tune_l2_sp', 'joint_training'),
            *('dann', 'self_training'),
        ),
        by_default=False,
        about='Trains nothing. Averages the weights of models that started from the source model: '
        "the best one on the target's validation images inside the source budget, and each of the "
        'others that makes the average better.',
    ),
)

#: Those of a ladder on a checkpoint and target images alone, in order of cost.
SOURCE_FREE_RUNGS = (
    Rung(
        'source_only',
        strategies=('no_training',),
        about='The model as it came. Nothing is trained or changed.',
    ),
    next(rung for rung in DEFAULT_RUNGS if rung.name == 'adabn'),
    Rung(
        'tent',
        strategies=('tent', 'no_training'),
        data=TARGET,
        start='source_only',
        about='Looks at the unlabelled target images once. Normalisation takes their statistics, '
        'and its weights move until predictions are surer. All other weights stay.',
    ),
    Rung(
        'sar',
        strategies=('sar', 'no_training'),
        data=TARGET,
        start='source_only',
        about='The same with more care: it learns from images that it is sure of alone, keeps the '
        "statistics of the model as it came beside the target's, and goes back to that model where "
        'predictions get too sure.',
    ),
    Rung(
        'shot',
        strategies=('shot',),
        data=TARGET,
        start='source_only',
        about='Trains all layers but the last on the unlabelled target images, until predictions '
        'are sure one by one, differ from each other, and agree with the nearest centre of a '
        'class.',
    ),
    Rung(
        'aad',
        strategies=('aad',),
        data=TARGET,
        start='source_only',
        about='Trains all layers on the unlabelled target images, until each is predicted as the '
        'images nearest to it are, and otherwise than the rest.',
    ),
)
