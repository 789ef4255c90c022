import pytest

from tl_plugin.ladder.rungs import Rung, read_rungs, select_rungs

SETTINGS = dict(
    target_dataloader=dict(dataset=dict(split='train')),
    labelled_target_dataloader=dict(dataset=dict(split='few')),
)


def names(rungs):
    return [rung.name for rung in rungs]


def test_default_rungs_in_order_of_cost():
    rungs = read_rungs({})
    assert list(rungs) == ['source_only', 'feature_extraction', 'fine_tune', 'dann']
    # Only the two that say so get target labels.
    assert [rung.name for rung in rungs.values() if rung.data == 'labelled_target'] == [
        'feature_extraction',
        'fine_tune',
    ]


def test_a_config_changes_rungs_field_by_field_and_adds_its_own():
    rungs = read_rungs(
        dict(
            rungs=dict(
                dann=dict(start='source_only'),
                gentle=dict(strategies=['fine_tune'], data='labelled_target', start='dann'),
            )
        )
    )
    assert rungs['dann'].strategies == ('dann',)
    assert rungs['dann'].start == 'source_only'
    assert list(rungs)[-1] == 'gentle'


def test_asking_for_one_rung_brings_those_it_starts_from():
    rungs = read_rungs(SETTINGS)
    chosen, missing = select_rungs(rungs, ['fine_tune'], SETTINGS)
    assert names(chosen) == ['source_only', 'fine_tune']
    assert not missing


def test_a_rung_comes_after_its_start_wherever_it_was_added():
    settings = dict(SETTINGS, rungs=dict(fine_tune=dict(start='dann')))
    chosen, _ = select_rungs(read_rungs(settings), None, settings)
    assert names(chosen) == ['source_only', 'feature_extraction', 'dann', 'fine_tune']


def test_rungs_without_data_are_left_out_unless_asked_for():
    settings = dict(labelled_target_dataloader=SETTINGS['labelled_target_dataloader'])
    rungs = read_rungs(settings)
    chosen, missing = select_rungs(rungs, None, settings)
    assert names(chosen) == ['source_only', 'feature_extraction', 'fine_tune']
    assert missing == {'dann': 'target_dataloader'}
    with pytest.raises(ValueError, match=r"'dann' needs ladder\.target_dataloader"):
        select_rungs(rungs, ['dann'], settings)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(target_loader={}), "no 'target_loader', did you mean 'target_dataloader'"),
        (dict(rungs=dict(dann=dict(option={}))), r"rungs.dann: there is no 'option'.*'options'"),
        (dict(rungs=dict(dann=dict(start='sorce'))), "start is 'sorce', which is no rung"),
        (dict(rungs=dict(dann=dict(data='target'))), "data must be one of .* got 'target'"),
        (dict(rungs=dict(mine=dict(data='source'))), 'rungs.mine.strategies must be a list'),
        (dict(rungs=dict(mine=dict(strategies='dann'))), "must be a list .* got 'dann'"),
        (dict(rungs=dict(source_only=dict(start='fine_tune'))), 'starts from itself'),
    ],
)
def test_a_wrong_ladder_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        read_rungs(settings)


def test_an_unknown_rung_names_the_nearest():
    with pytest.raises(ValueError, match="no 'finetune', did you mean 'fine_tune'"):
        select_rungs(read_rungs(SETTINGS), ['finetune'], SETTINGS)


def test_a_rung_needs_no_more_than_strategies():
    assert Rung('mine', ['source_only']).strategies == ('source_only',)
