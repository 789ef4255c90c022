from dataclasses import replace

import pytest

from tl_plugin.ladder.recommend import (
    SOURCE_ACCURACY,
    TARGET_ACCURACY,
    TARGET_SCORE,
    TARGET_VOTE,
    frontier,
    recommend,
    why_none,
)
from tl_plugin.ladder.records import DomainResult, RungResult


def row(name, source, target, measure=TARGET_ACCURACY):
    as_list = [value if isinstance(value, list) else [value] for value in (source, target)]
    validation = {SOURCE_ACCURACY: as_list[0], measure: as_list[1]}
    return RungResult(name, seeds=list(range(len(as_list[1]))), validation=validation)


LADDER = [row('source_only', 99, 60), row('fine_tune', 90, 85), row('dann', 98.5, 80)]


def test_the_best_on_validation_and_the_best_inside_a_budget():
    free = recommend(LADDER)
    assert free.rung == 'fine_tune' and not free.over_budget
    kept = recommend(LADDER, budget_source=1)
    assert kept.rung == 'dann' and kept.over_budget == ['fine_tune']
    text = ' '.join(kept.reasons)
    assert '80.0% of the target' in text and '+20.0 points' in text and '0.5 points on' in text
    assert 'fine_tune (85.0, source -9.0)' in text


def test_test_accuracy_plays_no_part():
    tempting = [
        replace(r, domains=dict(target=DomainResult(100.0 * (r.name == 'source_only'))))
        for r in LADDER
    ]
    assert recommend(tempting) == recommend(LADDER)


def test_source_only_is_recommended_where_no_rung_is_better():
    found = recommend([row('source_only', 99, 60), row('dann', 99, 55)])
    assert found.rung == 'source_only'
    assert 'No more expensive rung' in ' '.join(found.reasons)


@pytest.mark.parametrize(
    ('cheap', 'dear', 'expected'),
    [
        # One standard error of the paired differences (-1, -0.4, 0.2) is 0.35; the mean is 0.4.
        ([80.0, 80.0, 80.0], [81.0, 80.4, 79.8], 'dear'),
        # Of (-1.2, 0.6, 0) it is 0.53, the mean 0.2.
        ([80.0, 80.0, 80.0], [81.2, 79.4, 80.0], 'cheap'),
        # Noise excuses no more than half a point.
        ([70.0, 90.0, 80.0], [91.0, 72.0, 80.0], 'dear'),
        # Without seeds nothing is known of noise.
        ([80.0], [80.1], 'dear'),
    ],
)
def test_the_cheapest_of_equals(cheap, dear, expected):
    rungs = [row('source_only', [99.0] * len(cheap), [50.0] * len(cheap))]
    rungs += [row('cheap', [99.0] * len(cheap), cheap), row('dear', [99.0] * len(dear), dear)]
    assert recommend(rungs).rung == expected


def test_without_target_labels_a_score_chooses_and_says_so():
    rungs = [row('source_only', 99, 0.5, TARGET_SCORE), row('dann', 98, 0.9, TARGET_SCORE)]
    found = recommend(rungs)
    assert found.rung == 'dann' and found.measure == TARGET_SCORE
    text = ' '.join(found.reasons)
    # Both scores, what it costs, and how little that is.
    assert '0.90, against 0.50 without adaptation, and it costs 1.0 points on the source' in text
    assert 'not known how many' in text and 'This is a weak reason' in text
    assert 'can prefer a rung that is worse than no adaptation' in text


def test_a_score_that_does_not_choose_is_named():
    rungs = [row('source_only', 99, 0.5, 'target/label_free/entropy')]
    assert recommend(rungs) is None
    assert 'gives target/label_free/entropy, and a rung is chosen by' in why_none(rungs)


def test_the_frontier_leaves_out_what_another_beats_on_both():
    rungs = [*LADDER, row('worse', 98, 79), row('twin', 98.5, 80)]
    names = [rung.name for rung in frontier(rungs)]
    assert names == ['fine_tune', 'dann', 'twin', 'source_only']


def test_no_validation_no_recommendation():
    rungs = [RungResult('source_only')]
    assert recommend(rungs) is None
    assert 'nothing was validated on the target' in why_none(rungs)
    with pytest.raises(ValueError, match='at least 0, got -1'):
        recommend(LADDER, -1)


def test_without_labels_a_rung_has_to_be_surely_ahead_of_doing_nothing():
    rungs = [row('source_only', 99, 0.3, TARGET_VOTE), row('dann', 98, 0.9, TARGET_VOTE)]
    found = recommend(rungs, ahead={'source_only': 0.5, 'dann': 0.97})
    assert (found.rung, found.measure, found.ahead) == ('dann', TARGET_VOTE, 0.97)
    text = ' '.join(found.reasons)
    assert 'In 97% of resamples of the images it is ahead of source_only' in text
    assert 'This is a weak reason' in text and 'label some of the target images' in text
    unsure = recommend(rungs, ahead={'source_only': 0.5, 'dann': 0.8})
    assert (unsure.rung, unsure.ahead) == ('source_only', 0.8)
    assert 'no rung is better than doing nothing' in ' '.join(unsure.reasons)
    over = recommend(rungs, budget_source=0.5, ahead={'source_only': 0.5, 'dann': 0.97})
    assert over.rung == 'source_only' and over.over_budget == ['dann']
