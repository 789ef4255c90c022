from dataclasses import replace

import pytest
from mmengine.config import Config

from tests.test_ladder.conftest import ROOT, write_tiny
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.ready_config import check_measures_target, content_key, place, ready_config
from tl_plugin.ladder.rungs import Rung
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.launch.configs import load_config


@pytest.fixture
def cfg():
    return load_config(ROOT / 'configs' / 'digits' / 'ladder.py')


def ready(cfg, name, seed=0):
    return ready_config(cfg, read_rungs(cfg.ladder)[name], seed)


def test_each_kind_of_data_goes_where_the_loop_looks_for_it(cfg):
    source = ready(cfg, 'source_only')
    assert source.train_dataloader.dataset.quality == 'clean'
    assert 'target_dataloader' not in source.train_cfg

    few = ready(cfg, 'fine_tune')
    assert (few.train_dataloader.dataset.quality, few.train_dataloader.dataset.split) == (
        'field',
        'few',
    )
    assert few.train_dataloader.batch_size == 25
    assert few.train_dataloader.dataset.pipeline == source.train_dataloader.dataset.pipeline

    both = ready(cfg, 'dann')
    assert both.train_dataloader.dataset.quality == 'clean'
    assert both.train_cfg.target_dataloader.dataset == dict(quality='field', split='train')


def test_labelled_target_images_stand_among_those_of_the_source(cfg):
    rung = Rung('all', ['quality_matched', 'pseudo_label'], data='all')
    config = ready_config(cfg, rung, 0)
    data = config.train_dataloader.dataset
    assert (data.type, data.least_ratio) == ('SeveralSources', 1 / 3)
    assert [(part.quality, part.split) for part in data.datasets] == [
        ('clean', 'train'),
        ('field', 'few'),
    ]
    assert config.train_dataloader.batch_size == cfg.train_dataloader.batch_size
    assert config.train_cfg.target_dataloader.dataset == dict(quality='field', split='train')
    # What comes from the target is degraded already.
    assert [hook.sources for hook in config.custom_hooks if 'sources' in hook] == [[0]]
    without = ready_config(cfg, Rung('joint', ['source_only'], data='source+labelled_target'), 0)
    assert without.train_dataloader.dataset == data
    assert 'target_dataloader' not in without.train_cfg
    cfg.ladder.pop('labelled_target_dataloader')
    assert ready_config(cfg, rung, 0).train_dataloader.dataset == cfg.train_dataloader.dataset


def test_self_training_keeps_batch_statistics_where_it_has_general_weights(cfg):
    rung = read_rungs(cfg.ladder)['self_training']
    assert ready_config(cfg, rung, 0).model.norm_eval is False
    assert ready_config(cfg, replace(rung, start=None), 0).model.norm_eval is True
    mine = dict(model=dict(norm_eval=True))
    assert ready_config(cfg, replace(rung, options=mine), 0).model.norm_eval is True


def test_unlabelled_target_images_go_to_hooks_that_ask_for_them(cfg):
    field = dict(quality='field', split='train')
    adabn = ready(cfg, 'adabn')
    (hook,) = [hook for hook in adabn.custom_hooks if hook.type == 'AdaBNHook']
    assert hook.target_dataloader.dataset == field
    assert adabn.train_cfg == dict(type='NoTrainingLoop')
    assert not adabn.param_scheduler
    matched = ready(cfg, 'quality_matched')
    (hook,) = [hook for hook in matched.custom_hooks if hook.type == 'QualityMatchHook']
    assert hook.target_dataloader.dataset == field
    assert 'target_dataloader' not in matched.train_cfg
    both = ready_config(cfg, Rung('both', ['quality_matched', 'dann'], data='source+target'), 0)
    assert both.train_cfg.target_dataloader.dataset == field


def test_interpolation_is_given_its_two_models_and_both_domains(cfg, tmp_path):
    config = ready(cfg, 'interpolation')
    assert config.train_dataloader.dataset.quality == 'clean'
    assert config.train_cfg.target_dataloader.dataset == dict(quality='field', split='train')
    for adapted in (['tuned.pth'], ['tuned.pth', 'other.pth']):
        placed = Config.fromfile(place(config, tmp_path, 'source.pth', adapted))
        expected = adapted if adapted[1:] else 'tuned.pth'
        assert (placed.load_from, placed.train_cfg.adapted) == ('source.pth', expected)
    cfg.ladder.pop('target_dataloader')
    assert 'target_dataloader' not in ready(cfg, 'interpolation').train_cfg


def test_a_budget_reaches_the_rungs_that_keep_to_one(cfg):
    rungs = read_rungs(cfg.ladder)
    keys = {name: content_key(ready_config(cfg, rungs[name], 0), None) for name in rungs}
    changed = {
        name
        for name in rungs
        if content_key(ready_config(cfg, rungs[name], 0, budget=2.5), None) != keys[name]
    }
    assert changed == {'dann_retention', 'interpolation', 'soup'}
    assert ready_config(cfg, rungs['interpolation'], 0, 2.5).train_cfg.budget == 2.5
    hooks = ready_config(cfg, rungs['dann_retention'], 0, 2.5).custom_hooks
    assert [hook.budget for hook in hooks if hook.type == 'RetentionHook'] == [2.5]


def test_no_rung_trains_on_what_it_is_measured_on(cfg):
    for name in read_rungs(cfg.ladder):
        config = ready(cfg, name)
        trained = [config.train_dataloader.dataset]
        for place_of_target in (config.train_cfg, *config.custom_hooks):
            if 'target_dataloader' in place_of_target:
                trained.append(place_of_target.target_dataloader.dataset)
        parts = [part for data in trained for part in data.get('datasets', [data])]
        assert {part.split for part in parts} <= {'train', 'few'}
        assert config.test_dataloader.dataset.split == 'test'
        assert config.test_cfg.dataloaders.target.dataset.split == 'test'
        assert config.val_cfg.dataloaders.target.dataset.split == 'val'


def test_options_come_last_and_the_seed_after_them(cfg):
    rung = Rung(
        'mine',
        ['dann'],
        data='source+target',
        options=dict(model=dict(alignments=dict(dann=dict(reversal_weight=0.125)))),
    )
    config = ready_config(cfg, rung, 5)
    assert config.model.alignments.dann.reversal_weight == 0.125
    assert config.model.alignments.dann.type == 'DANNHead'
    assert config.randomness.seed == 5


def test_the_base_config_stays_as_it_is(cfg):
    before = cfg.to_dict()
    for name in read_rungs(cfg.ladder):
        ready(cfg, name)
    assert cfg.to_dict() == before


def test_a_ready_config_knows_nothing_of_the_ladder_and_can_be_read_back(cfg, tmp_path):
    path = place(ready(cfg, 'dann'), tmp_path / 'dann', 'start.pth')
    config = Config.fromfile(path)
    assert 'ladder' not in config
    assert config.work_dir == str(tmp_path / 'dann')
    assert config.load_from == 'start.pth'
    assert [metric.type for metric in config.test_evaluator] == ['Accuracy', 'DumpResults']
    assert config.model.type == 'AdaptationClassifier'


def test_the_key_follows_content_and_start_alone(cfg):
    key = content_key(ready(cfg, 'fine_tune'), 'start')
    assert key == content_key(ready(cfg, 'fine_tune'), 'start')
    assert key != content_key(ready(cfg, 'fine_tune'), 'another start')
    assert key != content_key(ready(cfg, 'fine_tune', seed=1), 'start')
    cfg.optim_wrapper.optimizer.lr *= 2
    assert key != content_key(ready(cfg, 'fine_tune'), 'start')


def test_a_changed_start_changes_what_builds_on_it(tmp_path):
    rungs = ['source_only', 'fine_tune']
    keys = []
    for number, extra in enumerate(('', 'randomness = dict(deterministic=True)\n')):
        folder = tmp_path / str(number)
        folder.mkdir()
        cfg = load_config(write_tiny(folder, extra))
        known = read_rungs(cfg.ladder)
        jobs = plan(cfg, [known[name] for name in rungs], [0, 1], tmp_path / 'work')
        assert [job.start for job in jobs[2:]] == jobs[:2]
        keys.append([job.key for job in jobs])
    assert not set(keys[0]) & set(keys[1])


def test_a_config_without_a_target_to_measure_is_refused(cfg):
    cfg.test_cfg = dict()
    with pytest.raises(ValueError, match=r"tests on \['source'\]: set test_cfg = .*DomainTestLoop"):
        check_measures_target(cfg)
