"""Drift: no alarm for images of the same kind, one for others, from the command line too."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.journeys.walk import SHAPES, THIN_RESNET, write_class_folders, write_images
from tests.pages import check_that_it_stands_alone
from tl_plugin.analysis.reference import DriftReference, fit_features
from tl_plugin.analysis.watch import ACT, AS_BEFORE, DRIFTED, watch
from tl_plugin.analysis.watch_report import label_of, watch_page

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
NAMES = ('sharpness', 'noise', 'brightness', 'contrast')
CENTRES = np.random.default_rng(9).normal(size=(3, 40)) * 2


def qualities(count, rng, **shift):
    table = rng.normal(size=(count, len(NAMES))) + 5
    for name, amount in shift.items():
        table[:, NAMES.index(name)] += amount
    return table


def features_of(labels, rng, blur=0.0):
    """Features of classes that move towards each other."""
    return (1 - blur) * CENTRES[labels] + rng.normal(size=(len(labels), 40))


@pytest.fixture(scope='module')
def reference():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    source, target = (features_of(labels, rng) for _ in range(2))
    about = dict(backbone='x', checkpoint='', image_size=None, own_pipelines=False)
    known = fit_features(source, [str(k) for k in labels], target, target[0], **about)
    return DriftReference(300, 3, NAMES, qualities(297, rng), known)


def look(reference, seed, count=200, unreadable=2, blur=0.0, order=None, **shift):
    rng = np.random.default_rng(100 + seed)
    labels = np.arange(count) % 3 if order is None else order
    quality = [dict(zip(NAMES, row)) for row in qualities(count, rng, **shift)]
    return watch(reference, count + unreadable, quality, features_of(labels, rng, blur), seed)


def test_images_of_the_same_kind_raise_no_alarm(reference):
    verdicts = [look(reference, seed).verdict for seed in range(10)]
    assert verdicts.count(AS_BEFORE) >= 9


@pytest.mark.parametrize(
    ('change', 'kind', 'verdict'),
    [
        (dict(noise=0.7), 'quality', DRIFTED),
        (dict(noise=2.0), 'quality', ACT),
        (dict(brightness=-2.0), 'quality', ACT),
        (dict(contrast=0.7), 'quality', DRIFTED),
        (dict(blur=0.9), 'features', ACT),
        (dict(order=np.zeros(200, int)), 'classes', DRIFTED),
        (dict(unreadable=60), 'files', ACT),
    ],
)
def test_each_kind_of_drift_is_named(reference, change, kind, verdict):
    found = look(reference, 0, **change)
    assert found.verdict == verdict
    drifted = [drift for drift in found.drifts if drift.drifted]
    assert kind in {drift.kind for drift in drifted}
    if kind in ('quality', 'files'):
        assert {drift.kind for drift in drifted} == {kind}
        (drift,) = drifted
        assert drift.change.low * drift.change.high > 0  # the interval excludes no change


def test_expected_accuracy_falls_with_the_confidence(reference):
    before, after = look(reference, 0), look(reference, 0, blur=0.9)
    assert before.expected_accuracy_before.value > 0.9
    assert before.expected_accuracy.value == pytest.approx(
        before.expected_accuracy_before.value, abs=0.05
    )
    assert after.expected_accuracy.high < before.expected_accuracy.low - 0.05


def test_json_keeps_the_reference(reference):
    from tl_plugin.analysis.findings import _plain

    again = DriftReference.from_json(json.loads(json.dumps(_plain(reference))))
    first, second = look(reference, 1), look(again, 1)
    assert first.verdict == second.verdict
    assert [d.name for d in first.drifts][:5] == [d.name for d in second.drifts][:5]


def test_shares_of_pixels_are_the_same_after_json(reference):
    """Most images have none or few of 16384 pixels, and JSON rounds 1 / 16384."""
    from tl_plugin.analysis.findings import _plain

    rng = np.random.default_rng(0)
    shares = rng.integers(0, 3, (2, 300)) / 16384
    kept = DriftReference(300, 0, ('dead_pixels',), shares[0][:, None])
    again = DriftReference.from_json(json.loads(json.dumps(_plain(kept))))
    found = watch(again, 300, [dict(dead_pixels=share) for share in shares[1]])
    assert found.verdict == AS_BEFORE


def test_too_few_images_are_refused(reference):
    with pytest.raises(ValueError, match='19 of 21 new images'):
        look(reference, 0, count=19)


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['diagnose.py', *map(str, arguments)])
    monkeypatch.setattr(sys, 'path', [str(TOOLS), *sys.path])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(TOOLS / 'diagnose.py'), run_name='__main__')
    return done.value.code


@pytest.fixture(scope='module')
def diagnosed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('watched')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 12), seed=0)
    write_images(folder / 'field', [0, 1, 2] * 20, seed=1, field=True)
    (folder / 'model.py').write_text(THIN_RESNET)
    with pytest.MonkeyPatch.context() as patch:
        data = ['--source', folder / 'source', '--target', folder / 'field']
        model = ['--backbone', folder / 'model.py', '--image-size', 32, '--processes', 1]
        assert run_tool(patch, *data, *model, '--work-dir', folder / 'found') == 0
    return folder


def test_reference_holds_no_image(diagnosed):
    content = json.loads((diagnosed / 'found' / 'findings.json').read_text())
    text = json.dumps(content['reference'])
    assert '.png' not in text and len(text) < 300_000
    assert content['reference']['images'] == 60


def test_random_weights_are_not_the_network_of_then(diagnosed, monkeypatch, tmp_path, capsys):
    """The config has no checkpoint, so that its weights are drawn each time."""
    arguments = ['--reference', diagnosed / 'found' / 'findings.json', '--processes', 1]
    arguments += ['--target', diagnosed / 'field', '--work-dir', tmp_path]
    assert run_tool(monkeypatch, *arguments) == 2
    assert 'other features of a fixed pattern' in capsys.readouterr().err
    listed = tmp_path / 'list.json'
    listed.write_text('["no findings"]')
    assert run_tool(monkeypatch, '--reference', listed, '--target', diagnosed / 'field') == 2
    assert 'list.json: expected a JSON object, got list' in capsys.readouterr().err


def test_new_images_from_the_command_line(diagnosed, monkeypatch, tmp_path, capsys):
    """By image quality alone: the same kind is as before, blurred images are to act on."""
    content = json.loads((diagnosed / 'found' / 'findings.json').read_text())
    content['reference']['features'] = None
    findings = tmp_path / 'findings.json'
    findings.write_text(json.dumps(content))
    write_images(tmp_path / 'new', [0, 1, 2] * 10, seed=2, field=True)
    (tmp_path / 'blurred').mkdir()
    for path in (tmp_path / 'new').iterdir():
        image = cv2.GaussianBlur(cv2.imread(str(path)), (0, 0), 2)
        cv2.imwrite(str(tmp_path / 'blurred' / path.name), image)
    for name, code, verdict in (('new', 0, AS_BEFORE), ('blurred', 4, ACT)):
        arguments = ['--reference', findings, '--target', tmp_path / name, '--processes', 1]
        assert run_tool(monkeypatch, *arguments, '--work-dir', tmp_path / 'w') == code
        assert f'Verdict: {verdict}' in capsys.readouterr().out
        assert json.loads((tmp_path / 'w' / 'watch.json').read_text())['verdict'] == verdict
        page = check_that_it_stands_alone((tmp_path / 'w' / 'watch.html').read_text())
        assert ('h2', verdict.capitalize()) in page.landmarks


def test_the_page_shows_every_quantity_of_the_json(reference):
    found = look(reference, 0, blur=1.5)
    page = check_that_it_stands_alone(watch_page(found, 'findings.json', '<new>'))
    header, *rows = page.tables['All quantities']
    assert header[-1] == 'p' and len(rows) == len(found.drifts)
    assert [row[0] for row in rows] == [label_of(vars(drift)) for drift in found.drifts]
    assert [float(row[3]) for row in rows] == pytest.approx(
        [drift.now for drift in found.drifts], rel=0.01
    )
    assert all(reason in page.text for reason in found.reasons) and '<new>' in page.text
    headings = [text for tag, text in page.landmarks if tag == 'h2']
    assert headings[0] == found.verdict.capitalize() and 'Expected accuracy' in headings
