import pytest

from tl_plugin.ladder.run_ladder import names_weights
from tl_plugin.ladder.rungs import Rung
from tl_plugin.ladder.selection import below, read_rungs, select_rungs

SETTINGS = dict(
    target_dataloader=dict(dataset=dict(split='train')),
    labelled_target_dataloader=dict(dataset=dict(split='few')),
)


def names(rungs):
    return [rung.name for rung in rungs]


SOURCE_RUNGS = ['source_only']
TARGET_RUNGS = [
    'source_only',
    'adabn',
    'frozen_alignment',
    'self_training',
]
LABELLED_RUNGS = [
    'source_only',
    'feature_extraction',
    'fine_tune',
    'joint_training',
]


USUAL = [name for name, rung in read_rungs({}).items() if rung.by_default]


def test_default_rungs_in_order_of_cost():
    rungs = read_rungs({})
    assert list(rungs) == [
        'source_only',
        'adabn',
        'frozen_alignment',
        'quality_matched',
        'feature_extraction',
        'linear_probe_then_fine_tune',
        'fine_tune',
        'surgical_fine_tune',
        'auto_rgn',
        'fine_tune_l2_sp',
        'lora',
        'joint_training',
        'dann',
        'dann_retention',
        'self_training',
        'interpolation',
        'soup',
    ]
    optional = ['quality_matched', 'linear_probe_then_fine_tune', 'surgical_fine_tune']
    optional += ['auto_rgn', 'fine_tune_l2_sp', 'lora', 'dann']
    optional += ['dann_retention', 'interpolation', 'soup']
    assert [rung.name for rung in rungs.values() if not rung.by_default] == optional
    # Only those that say so get target labels.
    labelled = [rung.name for rung in rungs.values() if 'labelled_target' in rung.data]
    assert [name for name in labelled if name not in optional] == LABELLED_RUNGS[1:]
    assert [rung.name for rung in rungs.values() if rung.data == 'all'] == ['self_training']
    assert all(rung.about.endswith('.') for rung in rungs.values())


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ([], SOURCE_RUNGS),
        (['target_dataloader'], TARGET_RUNGS),
        (['labelled_target_dataloader'], LABELLED_RUNGS),
        (list(SETTINGS), USUAL),
    ],
)
def test_every_rung_is_there_whenever_its_data_is(given, expected):
    settings = {name: SETTINGS[name] for name in given}
    chosen, missing = select_rungs(read_rungs(settings), None, settings)
    assert names(chosen) == expected
    assert set(missing) == set(USUAL) - set(expected)


def test_interpolation_goes_to_the_model_that_is_asked_for():
    rungs = read_rungs(SETTINGS)
    chosen, _ = select_rungs(rungs, ['interpolation', 'dann'], SETTINGS)
    assert names(chosen) == ['source_only', 'dann', 'interpolation']
    chosen, _ = select_rungs(rungs, ['interpolation'], SETTINGS)
    assert names(chosen) == ['source_only', 'fine_tune', 'interpolation']
    few = dict(target_dataloader=SETTINGS['target_dataloader'])
    chosen, _ = select_rungs(read_rungs(few), ['interpolation'], few)
    assert names(chosen) == ['source_only', 'self_training', 'interpolation']
    with pytest.raises(ValueError, match=r"'interpolation' can't .* it builds on fine_tune"):
        select_rungs(rungs, ['interpolation'], {})


def test_a_soup_is_made_of_what_is_asked_for_or_has_data():
    rungs = read_rungs(SETTINGS)
    chosen, _ = select_rungs(rungs, ['soup', 'dann', 'lora'], SETTINGS)
    assert names(chosen) == ['source_only', 'lora', 'dann', 'soup']
    assert chosen[-1].mixed_with == ('dann',)  # lora is no ingredient
    few = dict(labelled_target_dataloader=SETTINGS['labelled_target_dataloader'])
    chosen, _ = select_rungs(read_rungs(few), ['soup'], few)
    tuned = ('fine_tune', 'joint_training')
    assert chosen[-1].mixed_with == tuned and names(chosen) == ['source_only', *tuned, 'soup']
    with pytest.raises(ValueError, match=r"'soup' can't .* it builds on fine_tune"):
        select_rungs(read_rungs({}), ['soup'], {})
    with pytest.raises(ValueError, match=r"soup.ingredients is 'fine', which is no rung"):
        read_rungs(dict(rungs=dict(soup=dict(ingredients=['fine']))))


def test_adabn_is_left_out_where_there_is_no_batch_norm():
    rungs = read_rungs(SETTINGS)
    chosen, missing = select_rungs(rungs, None, SETTINGS, has_batch_norm=lambda: False)
    assert set(USUAL) - set(names(chosen)) == {'adabn'}
    assert 'no batch norm' in missing['adabn']
    with pytest.raises(ValueError, match="'adabn' can't be climbed: the network has no batch norm"):
        select_rungs(rungs, ['adabn'], SETTINGS, has_batch_norm=lambda: False)


def test_which_rungs_build_on_which():
    rungs = read_rungs(dict(rungs=dict(dann=dict(start='feature_extraction'))))
    assert below(rungs, 'source_only') == []
    assert below(rungs, 'dann') == ['source_only', 'feature_extraction']
    assert below(rungs, 'interpolation') == ['source_only', 'fine_tune']


def test_a_config_changes_rungs_field_by_field_and_adds_its_own():
    rungs = read_rungs(
        dict(
            rungs=dict(
                dann=dict(start=None),
                gentle=dict(strategies=['fine_tune'], data='labelled_target', start='dann'),
            )
        )
    )
    assert rungs['dann'].strategies == ('dann',)
    assert rungs['dann'].start is None
    assert list(rungs)[-1] == 'gentle'


def test_other_strategies_take_none_of_a_rungs_own_options():
    own = read_rungs({})['self_training']
    assert own.start_options
    changed = dict(self_training=dict(strategies=['source_only']))
    rungs = read_rungs(dict(rungs=changed))
    assert not rungs['self_training'].start_options and not rungs['self_training'].options
    options = dict(model=dict(norm_eval=True))
    changed = dict(self_training=dict(strategies=['self_training'], start_options=options))
    assert read_rungs(dict(rungs=changed))['self_training'].start_options == options
    changed = dict(self_training=dict(about='mine'))
    assert read_rungs(dict(rungs=changed))['self_training'].start_options == own.start_options


def test_asking_for_one_rung_brings_those_it_starts_from():
    rungs = read_rungs(SETTINGS)
    chosen, missing = select_rungs(rungs, ['fine_tune'], SETTINGS)
    assert names(chosen) == ['source_only', 'fine_tune']
    assert not missing


def test_a_rung_comes_after_its_start_wherever_it_was_added():
    settings = dict(SETTINGS, rungs=dict(fine_tune=dict(start='self_training')))
    order = names(select_rungs(read_rungs(settings), ['interpolation'], settings)[0])
    assert order.index('self_training') < order.index('fine_tune') < order.index('interpolation')


def test_rungs_without_data_are_left_out_unless_asked_for():
    settings = dict(labelled_target_dataloader=SETTINGS['labelled_target_dataloader'])
    rungs = read_rungs(settings)
    _, missing = select_rungs(rungs, None, settings)
    assert 'no ladder.target_dataloader' in missing['self_training']
    with pytest.raises(ValueError, match=r"'dann' can't .* has no ladder\.target_dataloader"):
        select_rungs(rungs, ['dann'], settings)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(target_loader={}), "no 'target_loader'. Did you mean 'target_dataloader'"),
        (dict(rungs=dict(dann=dict(option={}))), r"rungs.dann: there is no 'option'.*'options'"),
        (dict(rungs=dict(dann=dict(start='sorce'))), "start is 'sorce', which is no rung"),
        (dict(rungs=dict(dann=dict(data='few'))), "data must be one of .* got 'few'"),
        (dict(rungs=dict(interpolation=dict(towards=['fine']))), "towards is 'fine', which is no"),
        (dict(rungs=dict(fine_tune=dict(start='interpolation'))), 'starts from itself'),
        (dict(rungs=dict(mine=dict(data='source'))), 'rungs.mine.strategies must be a list'),
        (dict(rungs=dict(mine=dict(strategies='dann'))), "must be a list .* got 'dann'"),
        (dict(rungs=dict(source_only=dict(start='fine_tune'))), 'starts from itself'),
    ],
)
def test_a_wrong_ladder_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        read_rungs(settings)


def test_an_unknown_rung_names_the_nearest():
    with pytest.raises(ValueError, match=r"no 'finetune'\. Did you mean 'fine_tune'"):
        select_rungs(read_rungs(SETTINGS), ['finetune'], SETTINGS)


def test_a_rung_needs_no_more_than_strategies():
    assert Rung('mine', ['source_only']).strategies == ('source_only',)


def test_a_rung_that_prefers_the_weights_of_the_config_starts_from_these():
    rungs = read_rungs(SETTINGS)
    for own, start in ((False, 'source_only'), (True, None)):
        chosen, _ = select_rungs(
            rungs, ['frozen_alignment'], SETTINGS, has_own_weights=lambda own=own: own
        )
        assert chosen[-1].start == start
        assert names(chosen) == [*filter(None, [start]), 'frozen_alignment']


@pytest.mark.parametrize(
    ('model', 'expected'),
    [
        (dict(backbone=dict(type='PooledTimmBackbone', checkpoint_path='x.pth')), True),
        (dict(backbone=dict(type='A', init_cfg=[dict(type='Pretrained', checkpoint='x')])), True),
        (dict(backbone=dict(type='A', inner=dict(type='B', pretrained=True))), True),
        (dict(backbone=dict(type='A', pretrained=False, init_cfg=dict(type='Kaiming'))), False),
    ],
)
def test_a_backbone_that_names_weights(model, expected):
    assert names_weights(model['backbone']) == expected
