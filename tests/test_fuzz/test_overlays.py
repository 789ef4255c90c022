"""Overlays: unknown options, values of other types and out of range, parts of another form."""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS

from tests.test_fuzz.refusal import examples, refused
from tests.tiny_runs import TINY_RESNET, tiny_config
from tl_plugin.models.alignments.alignments import Alignments
from tl_plugin.models.regularizers.regularizers import Regularizers
from tl_plugin.strategies import apply_strategies, available_strategies

KIND = 'overlays'
WORD = st.from_regex(r'[a-z]{4,9}', fullmatch=True)
ENDLESS = st.sampled_from([float('nan'), float('inf'), float('-inf')])
THING = st.one_of(
    WORD,
    st.lists(st.integers(), min_size=1, max_size=2),
    st.binary(min_size=1, max_size=3),
    st.dictionaries(WORD, st.integers(), min_size=1, max_size=1),
)
BELOW = st.one_of(st.integers(max_value=-1), st.floats(-9, -0.01))
NEGATIVE = st.one_of(THING, ENDLESS, BELOW)
POSITIVE = st.one_of(NEGATIVE, st.just(0))
COUNT = st.one_of(THING, ENDLESS, st.integers(max_value=0), st.floats(0.1, 0.9))
PART = st.one_of(NEGATIVE, st.floats(1.01, 9))
FLAG = st.one_of(THING, ENDLESS, st.integers(min_value=2), st.none())
CHOICE = st.one_of(WORD, st.integers(), ENDLESS, st.lists(WORD, max_size=1))
WIDTHS = st.one_of(
    WORD, st.integers(), st.lists(st.one_of(WORD, st.integers(max_value=0), ENDLESS), min_size=1)
)

ADVERSARY = dict(reversal_weight=NEGATIVE, gamma=POSITIVE, loss_weight=NEGATIVE)
NETWORK = dict(hidden_channels=WIDTHS, norm=CHOICE, dropout=PART)
ALIGNMENTS = dict(
    DANNHead=dict(
        ADVERSARY,
        **NETWORK,
        label_smoothing=PART,
        spectral_norm=FLAG,
        gradient_penalty=NEGATIVE,
        num_sources=COUNT,
    ),
    CDANHead=dict(
        ADVERSARY,
        **NETWORK,
        entropy_conditioning=FLAG,
        max_channels=NEGATIVE,
        random_channels=COUNT,
    ),
    MDDHead=dict(ADVERSARY, **NETWORK, margin=st.one_of(POSITIVE, st.floats(0, 0.99))),
    DANAlignment=dict(bandwidths=WIDTHS, unbiased=FLAG, loss_weight=NEGATIVE, gamma=POSITIVE),
    JANAlignment=dict(bandwidths=WIDTHS, prediction_bandwidth=POSITIVE, unbiased=FLAG),
    DeepCORALAlignment=dict(loss_weight=NEGATIVE),
    MCCAlignment=dict(temperature=POSITIVE, loss_weight=NEGATIVE),
    AaDAlignment=dict(num_neighbours=COUNT, beta=NEGATIVE, loss_weight=NEGATIVE),
    AFNAlignment=dict(step=POSITIVE, radius=POSITIVE, loss_weight=NEGATIVE),
    BSPAlignment=dict(k=COUNT, loss_weight=NEGATIVE),
    EntropyMinimization=dict(loss_weight=NEGATIVE),
    InformationMaximization=dict(diversity_weight=NEGATIVE),
    PseudoLabelAlignment=dict(
        threshold=PART,
        relative=FLAG,
        ramp=FLAG,
        distribution_alignment=FLAG,
        soft_labels=FLAG,
        logit_interpolation=FLAG,
        class_balanced=FLAG,
        teacher_momentum=st.one_of(PART, st.just(1)),
    ),
    MaskedConsistency=dict(ratio=st.one_of(PART, st.just(1)), patches=COUNT),
    SelfTrainingAlignment=dict(teacher_momentum=st.one_of(PART, st.just(1))),
)
REGULARIZERS = dict(
    L2SPRegularizer=dict(loss_weight=NEGATIVE, excluded_decay=NEGATIVE, images=CHOICE),
    BSSRegularizer=dict(k=COUNT, loss_weight=NEGATIVE, images=CHOICE),
    DELTARegularizer=dict(relative=FLAG, loss_weight=NEGATIVE),
    LwFRegularizer=dict(temperature=POSITIVE, loss_weight=NEGATIVE, images=CHOICE),
)
CUSTOM_HOOKS = dict(
    AdaBNHook=dict(max_batches=COUNT, report_before=FLAG),
    AdversaryMonitorHook=dict(
        interval=COUNT,
        patience=COUNT,
        backoff=st.one_of(PART, st.just(0)),
        min_factor=PART,
        limits=st.one_of(WORD, st.integers(), THING),
    ),
    BadImagesHook=dict(limit=st.one_of(NEGATIVE, st.floats(1.1, 1.9)), tries=COUNT),
    CentroidPseudoLabelHook=dict(interval=COUNT, rounds=NEGATIVE),
    CollapsedPredictionsHook=dict(min_images=COUNT),
    FiniteLossHook=dict(patience=NEGATIVE),
    FreezeHook=dict(
        norm=CHOICE, norm_affine=CHOICE, dropout=CHOICE, droppath=CHOICE, check_ranks=FLAG
    ),
    FrozenAlignmentHook=dict(
        share=st.one_of(PART, st.just(0)),
        inverse_penalty=POSITIVE,
        neighbours=NEGATIVE,
        mirror=FLAG,
    ),
    LabelShiftHook=dict(
        method=CHOICE,
        threshold=PART,
        reweight=FLAG,
        max_weight=PART.filter(
            lambda value: not isinstance(value, float) or not value > 1 or value == float('inf')
        ),
    ),
    LoadReportHook=dict(new_classifier=FLAG),
    QualityMatchHook=dict(max_images=COUNT, prob=st.one_of(PART, st.just(0))),
    RetentionHook=dict(
        budget=NEGATIVE, action=CHOICE, patience=NEGATIVE, metric=st.one_of(st.integers(), ENDLESS)
    ),
    SimilarityHook=dict(max_images=COUNT, interval=COUNT, max_layers=COUNT, batch_size=COUNT),
    ValidationRiskHook=dict(decay=POSITIVE),
)
PARAMWISE = dict(
    layer_decay_rate=st.one_of(POSITIVE, st.floats(1.01, 9)),
    base_lr_mult=NEGATIVE,
    head_lr_mult=NEGATIVE,
    bias_lr_mult=NEGATIVE,
    norm_decay_mult=NEGATIVE,
    bias_decay_mult=NEGATIVE,
    dwconv_decay_mult=NEGATIVE,
    flat_decay_mult=NEGATIVE,
    custom_keys=st.one_of(
        WORD,
        st.integers(),
        st.lists(st.integers()),
        st.dictionaries(WORD, THING, min_size=1),
        st.just({'(': dict(lr_mult=1.0)}),
        st.just({'': dict(lr_mult=1.0)}),
        st.just({3: dict(lr_mult=1.0)}),
        st.just({'backbone': dict(lr_mul=1.0)}),
        st.just({'backbone': dict(momentun=1.0)}),
        st.just({'backbone': dict(colour=1.0)}),
        st.builds(lambda value: {'backbone': dict(lr_mult=value)}, NEGATIVE),
        st.just({'backbne': dict(lr_mult=0.1)}),
    ),
)


def wrong_options(components):
    """A component, one of its options, and a value that it can't have; or one that it hasn't."""
    known = st.sampled_from(
        [(kind, name) for kind, options in components.items() for name in options]
    ).flatmap(lambda pair: st.tuples(*map(st.just, pair), components[pair[0]][pair[1]]))
    unknown = st.tuples(st.sampled_from([*components]), WORD.map('x_{}'.format), st.integers())
    return st.one_of(known, known, known, unknown)


@lru_cache(maxsize=1)
def plain_model():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(copy.deepcopy(TINY_RESNET), type='AdaptationClassifier'))


@examples(60, KIND)
@given(wrong_options(ALIGNMENTS))
def test_alignments(case):
    kind, name, value = case
    # Beside the network, which costs far more time than the alignment itself.
    widths = dict(in_features=8, num_classes=4)
    refused(KIND, lambda: MODELS.build(dict(type=kind, **widths, **{name: value})), name)


@examples(40, KIND)
@given(wrong_options(REGULARIZERS))
def test_regularizers(case):
    kind, name, value = case
    refused(KIND, lambda: MODELS.build(dict(type=kind, **{name: value})), name)


@examples(70, KIND)
@given(wrong_options(CUSTOM_HOOKS))
def test_custom_hooks(case):
    kind, name, value = case
    needed = dict(layers=':-1') if kind == 'FreezeHook' else {}
    refused(KIND, lambda: HOOKS.build(dict(type=kind, **needed, **{name: value})), name)


@examples(60, KIND)
@given(wrong_options(dict(paramwise_cfg=PARAMWISE)))
def test_layerwise_learning_rates(case):
    _, name, value = case
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1),
        paramwise_cfg={name: value},
        constructor='LayerwiseLROptimWrapperConstructor',
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        refused(KIND, lambda: build_optim_wrapper(plain_model(), cfg), name)


@examples(20, KIND)
@given(
    key=st.sampled_from(['alignments', 'regularizers']),
    value=st.one_of(
        WORD,
        st.integers(1),
        st.lists(st.just(dict(type='DANNHead')), min_size=1),
        st.builds(
            lambda name, part: {name: part},
            WORD,
            st.one_of(
                WORD,
                st.integers(),
                st.lists(st.integers()),
                st.just({}),
                st.just(dict(k=1)),
                st.sampled_from(['LinearClsHead', 'ResNet', 'CrossEntropyLoss']).map(
                    lambda kind: dict(type=kind)
                ),
                st.integers().map(lambda kind: dict(type=kind)),
            ),
        ),
        st.sampled_from(['a b', 'my_loss', '1st', '']).map(
            lambda name: {name: dict(type='DANNHead')}
        ),
    ),
)
def test_losses_of_another_form(key, value):
    make = Regularizers if key == 'regularizers' else lambda cfg: Alignments(cfg, plain_model())
    refused(KIND, lambda: make(value), f'model.{key}')


@examples(10, KIND)
@given(name=WORD, kind=WORD)
def test_losses_that_there_are_not(name, kind):
    wrong = {name: dict(type=f'{kind}Penalty')}
    refused(KIND, lambda: Regularizers(wrong), f'{kind}Penalty')


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
    cfg = tiny_config(tmp_path_factory.mktemp('runs'), TINY_RESNET)
    return Runner.from_cfg(apply_strategies(cfg, ['dann']))


TARGET = dict(dataset=dict(seed=1))


@examples(60, KIND)
@given(
    case=st.one_of(
        st.tuples(st.just('max_epochs'), st.one_of(COUNT, st.booleans())),
        st.tuples(st.sampled_from(['val_begin', 'val_interval']), st.one_of(COUNT, ENDLESS)),
        st.tuples(
            st.just('dynamic_intervals'), st.one_of(WORD, st.integers(), st.lists(WORD, min_size=1))
        ),
        st.tuples(st.just('max_iters'), st.integers()),
        st.tuples(
            st.just('target_dataloader'),
            st.one_of(
                st.none(),
                WORD,
                st.integers(),
                st.lists(st.integers()),
                st.just({}),
                WORD.map(lambda name: dict(dataset=name)),
                st.integers(1).map(lambda value: dict(dataset=value)),
                st.just(dict(dataset={})),
                st.just(dict(batch_size=2)),
            ),
        ),
        st.tuples(st.just('strong_view'), st.one_of(WORD, st.integers(), st.just([]), st.just({}))),
        st.tuples(st.just('strong_source'), st.one_of(WORD, st.integers(), st.just(True))),
        st.tuples(WORD.map('x_{}'.format), st.integers()),
    )
)
def test_train_loops(runner, case):
    name, value = case
    loop = dict(type='AdaptationTrainLoop', max_epochs=1, target_dataloader=TARGET)
    loop[name] = value
    culprit = 'target' if name == 'target_dataloader' else name
    refused(KIND, lambda: runner.build_train_loop(copy.deepcopy(loop)), culprit)


@pytest.fixture(scope='module')
def overlay(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp('overlays'), count()

    def write(content):
        path = folder / f'overlay_{next(numbers)}.py'
        path.write_text(content, encoding='utf-8')
        return str(path)

    return write


@examples(50, KIND)
@given(
    case=st.one_of(
        st.tuples(
            st.just('custom_hooks'),
            st.one_of(
                WORD,
                st.integers(1),
                st.just({'type': 'FreezeHook'}),
                st.lists(st.one_of(WORD, st.integers(), st.just({})), min_size=1, max_size=2),
            ),
        ),
        st.tuples(
            st.just('custom_imports'),
            st.one_of(WORD, st.integers(1), st.lists(WORD, min_size=1), st.just({'import': 'x'})),
        ),
        st.tuples(
            st.sampled_from(['model', 'train_cfg', 'optim_wrapper']),
            st.one_of(WORD, st.integers(1), st.lists(WORD, min_size=1)),
        ),
        st.tuples(st.just('model'), st.just({'type': 'AdaptationClassifier'})),
    )
)
def test_files(overlay, case):
    key, value = case
    path = overlay(f'{key} = {value!r}\n')
    base = Config(
        dict(
            model=dict(type='MAE' if isinstance(value, dict) else 'ImageClassifier'),
            train_cfg=dict(by_epoch=True),
            optim_wrapper=dict(),
            custom_hooks=[],
        ),
        format_python_code=False,
    )
    refused(KIND, lambda: apply_strategies(base, [path]), key)


@examples(20, KIND)
@given(name=WORD.map('x{}'.format), twice=st.sampled_from(sorted(available_strategies())))
def test_names(name, twice):
    base = Config(dict(model=dict(type='ImageClassifier')))
    refused(KIND, lambda: apply_strategies(base, [name]), repr(name))
    refused(KIND, lambda: apply_strategies(base, [f'{name}.py']), f'{name}.py')
    refused(KIND, lambda: apply_strategies(base, [twice, twice]), twice)
