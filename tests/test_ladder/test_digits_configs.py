"""The digits configs: small, and each the very rung of the ladder that bears its name."""

import pytest
from mmengine.config import Config

from tests.test_ladder.conftest import ROOT
from tl_plugin.ladder.ready_config import ready_config
from tl_plugin.ladder.selection import read_rungs

DIGITS = ROOT / 'configs' / 'digits'
RUNGS = ['source_only', 'feature_extraction', 'fine_tune', 'dann', 'dann_pseudo_label']


@pytest.mark.parametrize('name', RUNGS)
def test_a_leaf_is_its_rung(name):
    path = DIGITS / f'{name}.py'
    assert len(path.read_text().splitlines()) <= 24
    cfg = Config.fromfile(DIGITS / 'ladder.py')
    rung = read_rungs(cfg.ladder)[name]
    ready, leaf = ready_config(cfg, rung, seed=0).to_dict(), Config.fromfile(path).to_dict()
    assert bool(leaf['load_from']) == bool(rung.start)
    # Which checkpoint a rung starts from is known when the one below it is climbed.
    leaf.pop('load_from')
    ready.pop('load_from')
    assert leaf == ready


def test_the_rungs_of_the_ladder_are_the_default_ones_and_those_with_leaves():
    rungs = read_rungs(Config.fromfile(DIGITS / 'ladder.py').ladder)
    assert set(rungs) == {*RUNGS, *read_rungs({})}
