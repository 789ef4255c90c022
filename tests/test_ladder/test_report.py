"""The report on data that isn't the digits: class folders, files read as BGR."""

import io
import re

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from sklearn.metrics import confusion_matrix

from tl_plugin.ladder.records import DomainResult, FailedRun, LadderResults, RungResult
from tl_plugin.ladder.report import (
    SampleImages,
    is_bgr,
    label_names,
    make_report,
)
from tl_plugin.ladder.run_records import Predictions
from tl_plugin.ladder.rung_plots import confusion_counts
from tl_plugin.ladder.target_labels import build_domain_dataset
from tl_plugin.reliability.files import write_json
from tl_plugin.reporting import plots

COLOURS = dict(green=(0, 200, 0), red=(200, 0, 0))


@pytest.fixture
def cfg(tmp_path):
    for domain, dark in (('source', 1), ('target', 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            pixels = np.full((40, 60, 3), np.array(colour) // dark, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / 'image.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier'),
            data_preprocessor=dict(to_rgb=True),
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset', data_root=str(tmp_path / 'source'), pipeline=pipeline
                )
            ),
            test_cfg=dict(
                dataloaders=dict(target=dict(dataset=dict(data_root=str(tmp_path / 'target'))))
            ),
        )
    )


PREDICTIONS = dict(
    source=dict(truth=[0, 1], predicted=[0, 1], confidence=[1.0, 1.0]),
    target=dict(truth=[0, 1], predicted=[1, 1], confidence=[1.0, 1.0]),
)


AS_RECORDS = {name: Predictions.from_json(found) for name, found in PREDICTIONS.items()}


def test_confusion_counts_leave_out_images_without_a_label():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 4, (2, 100))
    known = truth > 0
    parts = [
        Predictions(tuple(None if not t else int(t) for t in truth[half]), predicted[half], ())
        for half in (slice(50), slice(50, None))
    ]
    expected = confusion_matrix(truth[known], predicted[known], labels=range(4))
    np.testing.assert_array_equal(confusion_counts(parts, 4), expected)


def test_samples_show_the_colours_of_the_files(cfg):
    for domain, dark in (('source', 1), ('target', 2)):
        dataset = build_domain_dataset(cfg, domain)
        classes = label_names(dataset, {})
        assert classes == list(COLOURS)
        found = dict(source_only=AS_RECORDS[domain])
        shown = SampleImages(dataset, classes, found, is_bgr(cfg)).examples('source_only')
        assert [sample['truth'] for sample in shown] == classes
        for sample in shown:
            expected = tuple(value // dark for value in COLOURS[sample['truth']])
            colour = Image.open(io.BytesIO(sample['image'])).getpixel((30, 20))
            assert colour == pytest.approx(expected, abs=3)
    assert shown[0]['predicted'] == dict(source_only='red')


def test_classes_without_names_are_numbers():
    assert label_names(None, dict(dann=[AS_RECORDS])) == ['0', '1']


def test_a_report_escapes_text_and_names_failures(cfg, tmp_path):
    folder = tmp_path / 'work' / 'source_only' / 'seed_0'
    folder.mkdir(parents=True)
    write_json(folder / 'predictions.json', PREDICTIONS)
    rung = RungResult(
        name='source_only',
        seconds=1.0,
        domains=dict(
            source=DomainResult(accuracy=100.0, accuracy_interval=[34.2, 100.0], change=0.0),
            target=DomainResult(accuracy=50.0, change=0.0),
        ),
        config='a',
        folders=[str(folder)],
        command='python tools/train.py a && python tools/test.py a b',
    )
    results = LadderResults(
        config='<script>',
        rungs=[rung],
        not_climbed={'jan': '<i>'},
        failures=[FailedRun('dann', 0, 'ValueError: <b>')],
    )
    html = make_report(results, cfg)
    assert '<script>' not in html
    assert 'Not climbed: jan: &lt;i&gt;' in html and 'No recommendation' in html
    assert 'dann (seed 0): ValueError: &lt;b&gt;' in html
    assert re.search(r'right on 100\.0% of the source images is right on\s+50\.0% of', html)
    assert 'green taken for red (1 times)' in html


def test_of_many_classes_the_page_shows_those_with_most_mistakes(cfg, tmp_path, monkeypatch):
    truth = np.repeat(np.arange(300), 4)
    predicted = np.where(truth % 17 == 5, truth + 1, truth)  # 18 classes are taken for another one
    found = Predictions(truth.tolist(), predicted.tolist(), [0.9] * len(truth)).to_json()
    write_json(tmp_path / 'predictions.json', dict(source=found))
    drawn = []
    monkeypatch.setattr(plots, 'plot_confusion', lambda *given: drawn.append(given) or b'')
    html = make_report(LadderResults('c', rungs=[RungResult('a', folders=[str(tmp_path)])]), cfg)
    ((counts, classes, _, totals),) = drawn
    assert len(classes) == 20 and set(classes) <= {str(c) for c in range(300) if c % 17 in (5, 6)}
    assert totals.tolist() == [4] * 20 and counts.sum(1).max() <= 4
    wrong = [place for place, name in enumerate(classes) if int(name) % 17 == 5]
    assert counts[wrong, wrong].sum() == 0 and len(wrong) > 5
    assert 'the 20 of 300 classes with most mistakes' in html and '(4 times)' in html
