"""A corruption is described by its figures, also where only some images have it."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config

from tl_plugin.analysis.advice import _without_labels, worse_statistics
from tl_plugin.analysis.diagnose import _add_rungs
from tl_plugin.analysis.quality_gap import quality_gap
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.strategies import available_strategies, describe


def worse(name, source, target):
    """Describe one statistic."""
    qualities = [[{name: float(value)} for value in part] for part in (source, target)]
    return worse_statistics(quality_gap(*qualities))


@pytest.mark.parametrize('name, side', [('noise', 1), ('contrast', -1)])
def test_a_corruption_of_some_images_is_described_by_those_and_not_by_the_median(name, side):
    rng = np.random.default_rng(0)
    source = 50 + rng.normal(0, 1, 300)
    target = source - side * 0.5
    target[:80] += side * 20  # worse in a quarter, a bit better in the others
    (sentence,) = worse(name, source, target)
    assert sentence.startswith('Some of the target is worse')
    ends = [float(number) for number in re.findall(r'beyond (\d+\.?\d*)', sentence)]
    tenth = 90 if side > 0 else 10
    expected = [np.percentile(part, tenth) for part in (target, source)]
    assert ends == pytest.approx(expected, rel=1e-2)


def test_a_corruption_of_all_images_is_described_by_the_median():
    source = np.random.default_rng(0).normal(50, 1, 300)
    (sentence,) = worse('noise', source, source + 3)
    assert f'typically {np.median(source) + 3:.3g} against {np.median(source):.3g}' in sentence
    assert worse('noise', source, source - 3) == []


@pytest.mark.parametrize('shift', [0.0, 0.5])
def test_without_labels_self_training_comes_first(shift):
    classifier = SimpleNamespace(target_shares=(0.5, 0.5), label_shift=shift)
    reasons = []
    advised = _without_labels(SimpleNamespace(classifier=classifier), reasons)
    assert advised[0] == 'self_training' and {*advised} <= {*available_strategies()}
    assert ('dann' in advised) == (not shift), 'it would mix up classes of other frequencies'
    assert all(word in reasons[0] for word in ('elf-training', 'MCC', 'DANN'))


def test_the_ladder_tries_what_was_recommended(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('ladder = dict(rungs=dict(dann=dict(about="mine")))\n')
    _add_rungs(config, {'mcc': describe('mcc'), 'dann': describe('dann')})
    rungs = read_rungs(Config.fromfile(config).ladder)
    assert rungs['mcc'].strategies == ('mcc',) and rungs['mcc'].start == 'source_only'
    assert rungs['mcc'].about == describe('mcc') and 'MCC' in rungs['mcc'].about
    assert rungs['dann'].about == 'mine'
    before = config.read_text()
    _add_rungs(config, {'fine_tune': '', 'l2_sp': '', 'adabn': ''})  # which rungs have already
    assert config.read_text() == before
