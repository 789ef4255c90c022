"""The rungs that every ladder has, as far as its data go."""

from __future__ import annotations

from .rung import (
    ALL,
    LABELLED_TARGET,
    SOURCE_AND_LABELLED,
    SOURCE_AND_TARGET,
    TARGET,
    TWO_MODELS,
    Rung,
)

# In order of cost.
DEFAULT_RUNGS = (
    Rung(
        'source_only',
        strategies=('source_only',),
        about='Does nothing about the target: trained on the source alone.',
    ),
    Rung(
        'adabn',
        strategies=('adabn', 'no_training'),
        data=TARGET,
        start='source_only',
        about='Trains nothing. The network normalises what it sees by averages that it has counted '
        'on the source; these are counted anew on unlabelled target images. All weights stay.',
    ),
    Rung(
        'quality_matched',
        strategies=('quality_matched',),
        data=SOURCE_AND_TARGET,
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
        about='First trains the last layer alone on the few target labels, then all weights, so '
        "that a last layer that doesn't fit yet spoils nothing below it.",
    ),
    Rung(
        'fine_tune',
        strategies=('fine_tune',),
        data=LABELLED_TARGET,
        start='source_only',
        about='Trains all weights of the source model on the few target labels, gently: the '
        'nearer to the image, the smaller the steps.',
    ),
    # Not LwF: on target images it would teach what the source model says of them, which is wrong
    # where help is needed most, and the source images that it is right about aren't in this data.
    Rung(
        'fine_tune_l2_sp',
        strategies=('fine_tune', 'l2_sp'),
        data=LABELLED_TARGET,
        start='source_only',
        # The classes are the same, so the last layer has something to keep, too.
        options=dict(model=dict(regularizers=dict(l2_sp=dict(exclude=[])))),
        about='Trains all weights on the few target labels while a spring pulls each of them back '
        'to the source model (L2-SP). It needs no source images, nor that the source model be '
        'right about the target.',
    ),
    Rung(
        'joint_training',
        strategies=('source_only',),
        data=SOURCE_AND_LABELLED,
        start='source_only',
        about='Goes on training all weights on the source images and, among them, the few labelled '
        "target images, each seen many times. What is rehearsed isn't forgotten.",
    ),
    Rung(
        'dann',
        strategies=('dann',),
        data=SOURCE_AND_TARGET,
        start='source_only',
        about='Learns features that work on source and target alike, without target labels.',
    ),
    Rung(
        'dann_retention',
        strategies=('dann', 'retention'),
        data=SOURCE_AND_TARGET,
        start='source_only',
        about='The same, with an eye on the source: ends, and goes back to the last model that '
        'cost no more of the source accuracy than the budget.',
    ),
    Rung(
        'self_training',
        strategies=('quality_matched', 'pseudo_label'),
        data=ALL,
        start='source_only',
        about='Takes all that there is: source images, most of them degraded until they look like '
        "the target's, labelled target images, if there are some, and its own confident "
        'predictions on the unlabelled ones as labels of strongly augmented copies.',
    ),
    Rung(
        'interpolation',
        strategies=('interpolation',),
        data=TWO_MODELS,
        start='source_only',
        towards=('fine_tune', 'dann'),
        about='Trains nothing. Mixes the weights of the source model with those of the fine-tuned '
        'one (without target labels: the adapted one), in steps from one to the other, and keeps '
        "the mix that is best on the target's validation images inside the source budget.",
    ),
    Rung(
        'adapted_interpolation',
        strategies=('interpolation',),
        data=TWO_MODELS,
        start='source_only',
        towards=('self_training', 'dann'),
        about='Trains nothing. The same between the source model and the self-trained one.',
    ),
)
