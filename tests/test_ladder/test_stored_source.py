"""Ladders without source images: what is kept of the source, and what needs it."""

import json

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.folders import CLASSES, make_folders
from tests.journeys.walk import THIN_RESNET
from tests.test_ladder.conftest import ROOT
from tl_plugin.evaluation.calibration import fit_calibration, outputs_path
from tl_plugin.evaluation.source_reference import SourceReference, as_npz, outputs_of
from tl_plugin.intake.source_free import config_from_checkpoint
from tl_plugin.ladder.limits import Limits
from tl_plugin.ladder.ready_config import ready_config
from tl_plugin.ladder.run_ladder import why_unfit
from tl_plugin.ladder.rungs import SOURCE_FREE_RUNGS, Rung
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.ladder.stored_source import read_stored
from tl_plugin.launch.configs import load_config


def test_what_a_calibration_kept_counts_for_its_own_weights_alone(tmp_path):
    labels = torch.arange(60) % 3
    logits = 4.0 * torch.nn.functional.one_hot(labels, 3)
    logits[:6] = logits[:6].flip(1)
    about = dict(fitted_on='x', classes=list('abc'), checkpoint='w1', strategy=[])
    found = fit_calibration(logits, labels, None, **about)
    path = tmp_path / 'model.calibration.json'
    path.write_text(json.dumps(found.to_json()))
    outputs = outputs_of(logits.softmax(1).numpy(), labels.numpy())
    outputs_path(path).write_bytes(as_npz(SourceReference(outputs, {'blur 2': outputs}).arrays()))

    stored = read_stored(tmp_path / 'model.pth', 'w1')
    assert stored.outputs.source.accuracy() == pytest.approx(found.accuracy)
    assert np.array_equal(stored.outputs.degraded['blur 2'].labels, labels)
    assert f'{100 * found.accuracy:.1f}% of 60 images' in stored.notes()[0]
    for checkpoint, weights in (('model.pth', 'w2'), ('other.pth', 'w1')):
        assert read_stored(tmp_path / checkpoint, weights) == (None, None)
    path.write_text(json.dumps({**found.to_json(), 'strategy': ['adabn']}))
    assert read_stored(tmp_path / 'model.pth', 'w1').calibration is None


def test_shot_trains_on_the_target_in_a_ladder_with_a_source_too():
    cfg = load_config(ROOT / 'configs' / 'digits' / 'ladder.py')
    ready = ready_config(cfg, Rung('shot', ['shot'], data='target', start='source_only'), 0)
    assert ready.train_dataloader.dataset.quality == 'field'
    assert 'target_dataloader' not in ready.train_cfg


def test_no_rung_of_a_ladder_without_a_source_needs_one():
    names = list(read_rungs(dict(source_free=True)))
    assert names == [rung.name for rung in SOURCE_FREE_RUNGS]
    assert all(rung.data in ('source', 'target') for rung in SOURCE_FREE_RUNGS)
    for limits, flag in ((Limits(budget_source=1), 'budget-source'), (Limits(early_stop=True), '')):
        with pytest.raises(ValueError, match=f'--{flag}.*source images'):
            limits.check_source_free()
    Limits(until=90).check_source_free()


@pytest.mark.parametrize(
    ('model', 'refused'),
    [
        (dict(type='TimmClassifier', model_name='resnet10t'), ['tent', 'sar', 'shot', 'aad']),
        (dict(type='ImageClassifier', backbone=dict(type='LeNet5')), ['tent', 'sar']),
    ],
)
def test_rungs_that_the_network_is_not_made_for_are_left_out(model, refused):
    cfg = Config(dict(model=model))
    assert [rung.name for rung in SOURCE_FREE_RUNGS if why_unfit(cfg, rung)] == refused


def test_a_checkpoint_of_another_config_is_refused_before_anything_is_written(tmp_path):
    config = str(ROOT / 'configs' / 'digits' / 'source_only.py')
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        config_from_checkpoint(config, tmp_path / 'no.pth', tmp_path, tmp_path / 'out')
    torch.save(dict(state_dict={'head.fc.weight': torch.zeros(2, 2)}), tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='of another model than the config'):
        config_from_checkpoint(config, tmp_path / 'model.pth', tmp_path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_labels_that_a_checkpoint_without_names_cannot_know_are_refused_with_the_cure(tmp_path):
    config = tmp_path / 'model.py'
    config.write_text(THIN_RESNET.replace('in_channels=64', 'in_channels=64, num_classes=3'))
    model = mmpretrain.get_model(str(config), device='cpu')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    images = make_folders(tmp_path / 'images', 12)
    given = config, tmp_path / 'model.pth', images, tmp_path / 'out'
    with pytest.raises(ValueError, match='which of its 3 outputs these are: name them') as error:
        config_from_checkpoint(*given)
    assert not (tmp_path / 'out').exists() and '--unlabelled' in str(error.value)
    notes = load_config(config_from_checkpoint(*given, unlabelled=True)).ladder.notes
    assert any('names the 3 classes: they are called 0, 1, 2' in note for note in notes)
    names = f'test_dataloader = dict(dataset=dict(metainfo=dict(classes={CLASSES})))\n'
    config.write_text(config.read_text() + names)
    found = load_config(config_from_checkpoint(*given))
    assert tuple(found.test_dataloader.dataset.metainfo.classes) == CLASSES
