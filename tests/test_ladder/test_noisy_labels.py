"""A source with wrong labels: found before the climb, cleaned and survived beside it."""

import copy
import json

import numpy as np
import pytest
from mmengine.config import Config

from tests.folders import build
from tests.test_ladder.test_labels import climb_here, write_config
from tests.toy import toy_config
from tl_plugin.analysis.label_records import LabelFinding, LabelReport
from tl_plugin.evaluation.intervals import Estimate
from tl_plugin.ladder import noisy_labels
from tl_plugin.ladder import run_ladder as module
from tl_plugin.ladder.few_labels import few_labels_in_words
from tl_plugin.ladder.noisy_labels import add_label_rungs
from tl_plugin.ladder.ready_config import ready_config
from tl_plugin.ladder.recommend import recommend
from tl_plugin.ladder.records import RungResult
from tl_plugin.ladder.results import read_results
from tl_plugin.ladder.run_ladder import run_ladder
from tl_plugin.ladder.selection import read_rungs

NAMES = ('red', 'green', 'blue')
SIZE = 150


def noise(share=0.2):
    """Every fifth image, say, gets the next class."""
    step = round(1 / share)
    return [[n, NAMES[(n + 1) % 3]] for n in range(0, SIZE, step)]


def toy(folder, changes=()):
    cfg = toy_config(folder)
    dataset = dict(cfg.train_dataloader.dataset, size=SIZE)
    if changes:
        dataset = dict(type='CorrectedLabels', dataset=dataset, changes=list(changes))
    cfg.train_dataloader.dataset = dataset
    cfg.ladder = dict(rungs=dict(source_only=dict(options=dict(model=dict(head=dict(topk=(1,)))))))
    return cfg


def labels_of(dataset):
    built = build(copy.deepcopy(dataset))
    infos = [built.get_data_info(n) for n in range(len(built))]
    return {info['img_id']: info['gt_label'] for info in infos}


def no_weights():
    return False


def test_clean_labels_add_nothing_and_a_noisy_source_two_rungs_beside_the_plain_one(tmp_path):
    clean = toy(tmp_path)
    found, left_out = add_label_rungs(clean, None, tmp_path / 'clean', no_weights)
    assert found is clean and list(left_out) == ['cleaned', 'robust']
    assert "of the source's labels look wrong (95% interval" in left_out['robust']

    noisy = toy(tmp_path, noise())
    before = noisy.to_dict()
    found, left_out = add_label_rungs(noisy, None, tmp_path / 'noisy', no_weights)
    assert noisy.to_dict() == before and not left_out
    rungs = read_rungs(found.ladder)
    assert list(rungs)[:4] == ['source_only', 'cleaned', 'robust', 'adabn']
    ready = {name: ready_config(found, rungs[name], seed=0) for name in list(rungs)[:3]}
    assert ready['robust'].model.head.loss.type == 'RobustLoss'
    assert all(one.model.head.topk == (1,) for one in ready.values())
    given, cleaned = (
        labels_of(ready[name].train_dataloader.dataset) for name in ('source_only', 'cleaned')
    )
    wrong = {
        name: np.mean([label != n % 3 for n, label in part.items()])
        for name, part in (('given', given), ('cleaned', cleaned))
    }
    assert wrong['given'] == pytest.approx(0.2) and wrong['cleaned'] < 0.02
    assert len(cleaned) > 0.9 * SIZE
    # What is changed is on record, with what the label was.
    record = json.loads((tmp_path / 'noisy' / 'source_labels.json').read_text())
    by_file = {change['file']: change for change in record['changes']}
    assert by_file['train/0']['before'] == 'green' and by_file['train/0']['after'] in ('red', None)
    assert (
        f'gives another class to {sum(c["after"] is not None for c in record["changes"])} '
        in (found.ladder.notes[1])
    )


def test_what_was_found_is_read_again_unless_the_labels_changed(tmp_path, monkeypatch):
    first, _ = add_label_rungs(toy(tmp_path, noise()), None, tmp_path, no_weights)

    def never(*arguments):
        raise KeyError('judged again')

    monkeypatch.setattr(noisy_labels, 'check_parts', never)
    again, _ = add_label_rungs(toy(tmp_path, noise()), None, tmp_path, no_weights)
    assert again.to_dict() == first.to_dict()
    # Without a check the climb goes on, and says so.
    _, left_out = add_label_rungs(toy(tmp_path, noise(0.25)), None, tmp_path, no_weights)
    assert "the check of the source's labels failed: KeyError" in left_out['cleaned']


def test_by_name_they_come_whatever_the_labels_and_cost_nothing_where_others_are_asked(tmp_path):
    cfg = toy(tmp_path)
    with pytest.raises(ValueError, match='cleaned has nothing to change'):
        add_label_rungs(cfg, ['cleaned'], tmp_path / 'a', no_weights)
    found, _ = add_label_rungs(cfg, ['robust'], tmp_path / 'b', no_weights)
    assert 'robust' in read_rungs(found.ladder) and not (tmp_path / 'b').exists()
    assert add_label_rungs(cfg, ['adabn'], tmp_path / 'c', no_weights)[0] is cfg
    cfg.ladder = dict(rungs=dict(cleaned=dict(strategies=['bss']), robust=dict(strategies=['bss'])))
    assert add_label_rungs(cfg, None, tmp_path / 'd', no_weights)[0] is cfg


def test_labels_without_names_of_classes_are_not_cleaned_in_silence(tmp_path):
    cfg = toy(tmp_path)
    cfg.train_dataloader.dataset.metainfo = dict(classes=())
    found = noisy_labels.SourceLabels(
        '', 1, True, '', [dict(file='train/0', before='0', after='1')]
    )
    plain = read_rungs(cfg.ladder)['source_only']
    with pytest.raises(ValueError, match='does not name its classes: give it metainfo'):
        noisy_labels._cleaned(cfg, plain, found, tmp_path)


def test_a_large_source_is_sampled_first(tmp_path, monkeypatch):
    monkeypatch.setattr(noisy_labels, 'SAMPLE', 90)
    monkeypatch.setattr(noisy_labels, 'OF_CLASS', 30)
    _, left_out = add_label_rungs(toy(tmp_path), None, tmp_path / 'clean', no_weights)
    assert '; 90 training images were judged' in left_out['cleaned']
    found, _ = add_label_rungs(toy(tmp_path, noise()), None, tmp_path / 'noisy', no_weights)
    assert '; 150 training images were judged' in found.ladder.notes[0]


def test_a_climb_says_what_the_wrong_labels_cost(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'climb', climb_here)
    config = write_config(tmp_path, 'true', 'true')
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset = toy(tmp_path, noise()).train_dataloader.dataset
    cfg.dump(config)
    rungs = ['source_only', 'cleaned', 'robust']
    assert run_ladder(config, tmp_path / 'work', rungs) == 0
    results = read_results(tmp_path / 'work' / 'results.json')
    assert [rung.name for rung in results.rungs] == rungs
    assert any('The rung cleaned gives another class' in note for note in results.notes)
    assert 'wrong labels cost' in results.recommendation.reasons[-1]
    page, output = (tmp_path / 'work' / 'report.html').read_text(), capsys.readouterr().out
    assert 'wrong labels cost' in page and 'wrong labels cost' in output


@pytest.mark.parametrize(
    'cleaned, robust, said',
    [
        (66.0, 62.0, 'wrong labels cost 6.0 points on the target'),
        (59.0, 58.0, 'wrong labels cost nothing that can be measured'),
    ],
)
def test_the_recommendation_names_the_difference_to_the_plain_rung(cleaned, robust, said):
    rows = [
        RungResult(name, validation={'target/accuracy/top1': [value], 'source/accuracy/top1': [80]})
        for name, value in (('source_only', 60.0), ('cleaned', cleaned), ('robust', robust))
    ]
    assert said in recommend(rows).reasons[-1]
    assert f'source_only 60.0%, cleaned {cleaned}%, robust {robust}%' in recommend(rows).reasons[-1]
    assert not any('wrong labels' in reason for reason in recommend(rows[:1]).reasons)
    # Without target labels the source's say it.
    rows = [
        RungResult(
            r.name,
            validation={
                'source/accuracy/top1': [r.validation['target/accuracy/top1'][0]],
                'target/label_free/information_maximization': [1.0],
            },
        )
        for r in rows
    ]
    assert said.replace('target', 'source') in recommend(rows).reasons[-1]


def report_on(kinds, images=35, **fields):
    findings = [LabelFinding(f'{n}.png', 'a', 'b', 0.9, kind) for n, kind in enumerate(kinds)]
    return LabelReport('few', 'the model', images, None, (), tuple(findings), **fields)


def test_few_target_labels_are_warned_of_beyond_the_errors_of_the_source_model():
    (note,) = few_labels_in_words(report_on(['wrong'] * 6 + ['ambiguous'] * 4), 95.0)
    assert (
        '10 of the 35 target labels that are trained on are doubted by the source model, 6' in note
    )
    assert 'It errs on 5% of the target by itself, which makes 2.' in note
    assert '0.png (given a, likely b)' in note and '6.png' not in note
    # A source model that is right on half of the target doubts half of the right labels.
    assert few_labels_in_words(report_on(['wrong'] * 10), 50.0) == []
    assert few_labels_in_words(report_on(['ambiguous'] * 10), None) == []
    (note,) = few_labels_in_words(report_on(['wrong']), None)
    assert 'How often it errs on the target is not known.' in note
    # Enough labels judge each other.
    rate = Estimate(0.2, 0.15, 0.25)
    noisy = report_on(['wrong'] * 40, 200, agreement=0.95)
    assert few_labels_in_words(noisy, None) == []
    noisy = LabelReport(**{**vars(noisy), 'rate': rate})
    assert few_labels_in_words(noisy, None)[0].startswith('About 20% of the 200 target labels')
