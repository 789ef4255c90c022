"""Accuracy under corruptions against ordinary tests of such images, and ImageNet-C's errors."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.folders import build
from tests.toy import ToyDataset, loader, toy_config
from tl_plugin.analysis.corruption_curves import (
    CorruptionCurves,
    check_corruptions,
    corrupted,
    measure_curves,
    summarise,
)
from tl_plugin.launch.runs import build_runner

TARGET = dict(dataset=dict(shift=0.3, size=9, seed=1))


def run(folder: Path, pipeline: list | None = None):
    """A runner after a test of both domains, its weights those of a seed."""
    cfg = toy_config(folder)
    cfg.test_dataloader = loader(size=15, shuffle=False, pipeline=pipeline)
    cfg.test_cfg = dict(type='DomainTestLoop', dataloaders=dict(target=TARGET))
    torch.manual_seed(3)
    runner = build_runner(cfg, plain=True)
    centroids(runner.model)
    return runner, runner.test()


@torch.no_grad()
def centroids(model) -> None:
    """Make the head of random features a nearest-centroid classifier of the source's classes."""
    packed = list(build(loader(size=15)['dataset']))
    images = model.data_preprocessor(
        dict(inputs=torch.stack([item['inputs'] for item in packed])), False
    )['inputs']
    features = model.eval().head.pre_logits(model.extract_feat(images))
    features = features - features.mean(0)
    labels = torch.cat([item['data_samples'].gt_label for item in packed])
    means = torch.stack([features[labels == label].mean(0) for label in range(3)])
    raw = model.head.pre_logits(model.extract_feat(images)).mean(0)
    model.head.fc.weight.copy_(means)
    model.head.fc.bias.copy_(-means @ raw - (means**2).sum(1) / 2)


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
    return run(tmp_path_factory.mktemp('run'))


def test_curves_are_those_of_ordinary_tests_of_corrupted_images(runner, tmp_path):
    curves = measure_curves(runner[0], ['low_light'])
    assert set(curves) == {'source', 'target'}
    for severity in (2, 5):
        degrade = dict(type='DegradeQuality', corruptions=['low_light'], severity=severity, seed=0)
        _, found = run(tmp_path / str(severity), [degrade, dict(type='PackInputs')])
        for domain, curve in curves.items():
            expected = found[f'{domain}/accuracy/top1']
            assert curve.corruptions['low_light'][severity - 1] == pytest.approx(expected, abs=0.01)
    for domain, curve in curves.items():
        assert curve.clean == pytest.approx(runner[1][f'{domain}/accuracy/top1'])
    assert len({value for curve in curves.values() for value in curve.corruptions['low_light']}) > 1


def test_images_are_corrupted_inside_the_context_alone(runner):
    loop = runner[0].test_loop
    dataset = loop.domains['target'][0].dataset
    assert isinstance(dataset, ToyDataset)

    class Black:
        def __call__(self, results: dict) -> dict:
            return {**results, 'img': np.zeros_like(results['img'])}

    with corrupted(loop, Black()):
        assert dataset[0]['inputs'].max() == 0
    assert dataset[0]['inputs'].max() > 0
    with pytest.raises(KeyError), corrupted(loop, Black()):
        raise KeyError
    assert dataset[0]['inputs'].max() > 0


def test_mean_corruption_error_is_imagenet_cs():
    """The formulas of section 4 of the paper, written out with errors."""
    random = np.random.default_rng(0)
    ours, theirs = random.uniform(0.1, 0.6, (2, 3, 5))
    clean_ours, clean_theirs = 0.05, 0.08
    names = ('blur', 'noise', 'jpeg')

    def curves(errors, clean, baseline=None):
        accuracy = {name: 100 * (1 - row) for name, row in zip(names, errors)}
        return summarise(100 * (1 - clean), accuracy, baseline)

    found = curves(ours, clean_ours, curves(theirs, clean_theirs))
    ce = ours.sum(axis=1) / theirs.sum(axis=1)
    relative = (ours - clean_ours).sum(axis=1) / (theirs - clean_theirs).sum(axis=1)
    assert found.mce == pytest.approx(100 * ce.mean(), abs=1e-2)
    assert found.relative_mce == pytest.approx(100 * relative.mean(), abs=1e-2)
    assert found.mean_error == pytest.approx(100 * ours.mean(), abs=1e-2)
    assert CorruptionCurves.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        check_corruptions(['nois'])
    ours = summarise(90, dict(blur=[80.0]))
    with pytest.raises(ValueError, match='was not measured under noise'):
        summarise(90, dict(noise=[80.0]), ours)
    perfect = summarise(100, dict(blur=[100.0]))
    assert summarise(90, dict(blur=[80.0]), perfect).mce is None


def test_the_tool_writes_curves_and_pictures(runner, tmp_path, monkeypatch, capsys):
    from tests.journeys.walk import ROOT

    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=runner[0].model.state_dict(), meta={}), checkpoint)
    config = tmp_path / 'config.py'
    runner[0].cfg.dump(config)
    given = [
        config,
        checkpoint,
        '--work-dir',
        tmp_path / 'w',
        '--plain',
        '--corruptions',
        'low_light',
    ]
    given += ['--out', tmp_path / 'of_clean_images.pkl']
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, given)])
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    path = ROOT / 'tools' / 'test.py'
    exec(compile(path.read_text(), str(path), 'exec'), {'__name__': '__main__'})
    written = pickle.loads((tmp_path / 'of_clean_images.target.pkl').read_bytes())
    right = [one['gt_label'].item() == one['pred_label'].item() for one in written]
    found = json.loads((tmp_path / 'epoch_1.corruptions.json').read_text())
    target = found['domains']['target']
    assert len(target['corruptions']['low_light']) == 5
    assert target['clean'] == pytest.approx(100 * np.mean(right))
    assert any(
        one['corruptions']['low_light'][-1] != one['clean'] for one in found['domains'].values()
    )
    for domain in ('source', 'target'):
        picture = tmp_path / f'epoch_1.corruptions.{domain}.png'
        assert picture.read_bytes().startswith(b'\x89PNG')
        assert f'{domain}: accuracy' in capsys.readouterr().out or domain == 'target'
