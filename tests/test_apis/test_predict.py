"""Rows for images of any kind, equal to mmpretrain's inferencer, resumed without a lost row."""

from __future__ import annotations

import csv
import json
import os
import shutil

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tests.distributed import run_distributed
from tests.pages import check_that_it_stands_alone
from tl_plugin.apis import list_images, predict
from tl_plugin.apis.chunks import Chunks
from tl_plugin.apis.classifier import load_classifier
from tl_plugin.intake.any_data import read_data

from .conftest import square


def read(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def found(user, tmp_path_factory):
    """The table of the field images, and its summary."""
    out = tmp_path_factory.mktemp('out') / 'found.csv'
    return out, predict(user.config, user.weights, user.folder / 'field', out, to_label=6)


def test_rows_are_what_the_inferencer_says(user, found):
    out, summary = found
    rows = read(out)
    model = mmpretrain.get_model(str(user.config), pretrained=str(user.weights), device='cpu')
    inferencer = mmpretrain.ImageClassificationInferencer(model)
    expected = inferencer([row['image'] for row in rows], batch_size=7)
    assert len(rows) == summary.images == 40
    assert [row['prediction'] for row in rows] == [one['pred_class'] for one in expected]
    for row, one in zip(rows, expected):
        best = np.sort(one['pred_scores'])[::-1]
        ranked = [row['confidence'], row['confidence_2'], row['confidence_3']]
        assert [float(score) for score in ranked] == pytest.approx(best.tolist(), abs=1e-5)
    counts = {one.name: one.predicted for one in summary.classes}
    predicted = [row['prediction'] for row in rows]
    assert counts == {name: predicted.count(name) for name in ('red', 'green', 'blue')}
    assert sorted(counts.values())[1] > 0  # more than one class


def test_page_and_summary_stand_beside_the_table(found):
    out, _ = found
    page = check_that_it_stands_alone(out.with_suffix('.html').read_text())
    assert 'least sure' in page.text
    values = json.loads(out.with_suffix('.summary.json').read_text())
    assert values['images'] == 40 and values['sure'] is None
    assert any('is not calibrated' in note for note in values['notes'])
    assert not list(out.parent.glob('*.partial'))


def test_a_finished_table_is_not_replaced(user, found):
    out, _ = found
    with pytest.raises(FileExistsError, match='--overwrite'):
        predict(user.config, user.weights, user.folder / 'field', out)


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    """Files as people have them; the name of each says whether it can be read."""
    folder = tmp_path_factory.mktemp('hostile')
    rng = np.random.default_rng(3)
    image = square(0, rng)
    cv2.imwrite(str(folder / 'good.png'), image)
    cv2.imwrite(str(folder / 'good_grey.png'), image[..., 0])
    cv2.imwrite(str(folder / 'good_rgba.png'), np.dstack([image, image[..., 0]]))
    cv2.imwrite(str(folder / 'good_16_bit.png'), image.astype(np.uint16) * 256)
    cv2.imwrite(str(folder / 'good\nlines é.png'), image)
    (folder / 'bad_empty.png').touch()
    (folder / 'bad_text.jpg').write_text('no image')
    (folder / 'bad_cut.png').write_bytes((folder / 'good.png').read_bytes()[:150])
    (folder / 'notes.md').write_text('left out')
    (folder / '.hidden.png').touch()
    return folder


def test_unreadable_files_are_rows_with_a_reason(user, hostile, tmp_path):
    out = tmp_path / 'rows.json'
    summary = predict(user.config, user.weights, hostile, out, batch_size=2)
    rows = {os.path.basename(row['image']): row for row in json.loads(out.read_text())}
    assert len(rows) == 8 and summary.unreadable == 3
    for name, row in rows.items():
        assert (row['fault'] is None) == (row['prediction'] is not None) == name.startswith('good')
    assert 'good\\nlines é.png' in rows
    assert rows['bad_empty.png']['fault'].startswith('empty')
    assert any('notes.md' in note for note in summary.notes)


def test_no_readable_image_at_all(user, tmp_path):
    (tmp_path / 'a.png').touch()
    summary = predict(user.config, user.weights, tmp_path / 'a.png', tmp_path / 'x.csv', to_label=3)
    (row,) = read(tmp_path / 'x.csv')
    assert row['fault'] and not row['prediction']
    assert (summary.unreadable, summary.mean_confidence, summary.to_label) == (1, None, 0)


def test_a_mistake_in_the_pipeline_is_no_unreadable_file(user, tmp_path):
    cfg = Config.fromfile(user.config)
    cfg.test_dataloader.dataset.pipeline[1] = dict(type='CenterCrop', crop_size='wide')
    with pytest.raises(Exception) as error:
        predict(cfg, user.weights, user.folder / 'field', tmp_path / 'x.csv')
    assert 'fault' not in str(error.value)
    assert not (tmp_path / 'x.csv').exists()


@pytest.mark.parametrize('suffix', ['.json', '.jsonl', '.parquet'])
def test_every_format_holds_the_same_rows(user, found, tmp_path, suffix):
    out = tmp_path / f'rows{suffix}'
    predict(user.config, user.weights, user.folder / 'field', out)
    if suffix == '.parquet':
        parquet = pytest.importorskip('pyarrow.parquet')
        rows = parquet.read_table(out).to_pylist()
    elif suffix == '.json':
        rows = json.loads(out.read_text())
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = read(found[0])
    assert list(rows[0]) == list(expected[0])
    for row, other in zip(rows, expected):
        assert row['image'] == other['image']
        assert row['confidence'] == float(other['confidence'])
        assert row['distance'] is None and row['label'] is None


def test_an_unknown_format_is_refused_before_anything(user, tmp_path):
    with pytest.raises(ValueError, match=r'\.parquet'):
        predict('no_such_config.py', 'none.pth', 'nowhere', tmp_path / 'x.xlsx')


def kill_after(monkeypatch, number):
    """Let the run die when it has written so many chunks."""
    written, write = [], Chunks.write

    def die(self, chunk):
        if len(written) == number:
            raise KeyboardInterrupt
        written.append(chunk.start)
        write(self, chunk)

    monkeypatch.setattr(Chunks, 'write', die)
    monkeypatch.setattr('tl_plugin.apis.chunks.LEAST', 8)


def test_a_killed_run_goes_on_and_gives_the_same_rows(user, found, tmp_path, monkeypatch):
    out = tmp_path / 'rows.csv'
    arguments = user.config, user.weights, user.folder / 'field', out
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            predict(*arguments)
        assert not out.exists()
        patch.undo()
        patch.setattr('tl_plugin.apis.chunks.LEAST', 8)
        with pytest.raises(ValueError, match='another top_k'):
            predict(*arguments, top_k=1)
        read_again = []
        getitem = 'tl_plugin.apis.loading.ImageFiles.__getitem__'
        original = __import__('tl_plugin.apis.loading', fromlist=['x']).ImageFiles.__getitem__
        patch.setattr(getitem, lambda self, i: read_again.append(i) or original(self, i))
        predict(*arguments)
    assert read_again == list(range(16, 40))
    assert read(out) == read(found[0])


def on_two_processes(config, weights, folder, out):
    import tl_plugin.apis.chunks

    tl_plugin.apis.chunks.LEAST = 8
    predict(config, weights, folder, out, to_label=6)
    return os.path.exists(out)


def test_two_processes_share_the_images(user, found, tmp_path):
    out = str(tmp_path / 'rows.csv')
    arguments = str(user.config), str(user.weights), str(user.folder / 'field'), out
    assert run_distributed(on_two_processes, *arguments) == [True, True]
    assert read(tmp_path / 'rows.csv') == read(found[0])
    chosen = (tmp_path / 'rows.to_label.csv').read_text()
    assert chosen == found[0].with_suffix('.to_label.csv').read_text()


def test_images_to_label_are_different_and_unlabelled(user, found):
    out, summary = found
    rows = read(out.with_suffix('.to_label.csv'))
    assert len({row['image'] for row in rows}) == summary.to_label == 6
    assert not any(row['label'] for row in rows)


def test_the_corrected_table_is_read_as_labels(user, found, tmp_path):
    lines = found[0].read_text().splitlines()
    lines[1] = lines[1].replace(',,', ',green,', 1)
    (tmp_path / 'corrected.csv').write_text('\n'.join(lines) + '\n')
    data = read_data(tmp_path / 'corrected.csv', every_file=True)
    labels = [item.label for item in data.items]
    assert labels == ['green', *[None] * 39]


def test_labels_of_a_table_are_kept_and_give_the_accuracy(user, found, tmp_path):
    rows = read(found[0])
    with (tmp_path / 'table.csv').open('w') as file:
        file.write('image,label\n')
        for index, row in enumerate(rows):
            file.write(
                f'{row["image"]},{("red", "green", "blue")[index % 3] if index < 9 else ""}\n'
            )
    out = tmp_path / 'rows.csv'
    summary = predict(user.config, user.weights, tmp_path / 'table.csv', out, to_label=40)
    again = read(out)
    assert [row['label'] for row in again[:9]] == ['red', 'green', 'blue'] * 3
    right = sum(row['label'] == row['prediction'] for row in again[:9])
    assert summary.accuracy.value == pytest.approx(right / 9)
    proposed = {row['image'] for row in read(out.with_suffix('.to_label.csv'))}
    assert len(proposed) == 31 and not proposed & {row['image'] for row in again[:9]}


def test_adabn_predicts_with_the_statistics_of_the_images(user, found, tmp_path):
    out = tmp_path / 'rows.csv'
    field = user.folder / 'field'
    summary = predict(user.config, user.weights, field, out, strategy=['adabn'], batch_size=40)
    assert any('AdaBN' in note and '40' in note for note in summary.notes)
    confidences = [float(row['confidence']) for row in read(out)]
    # By hand: all images at once through a model whose batch norms follow the batch.
    model = mmpretrain.get_model(str(user.config), pretrained=str(user.weights), device='cpu')
    inputs = torch.stack(
        [torch.from_numpy(cv2.imread(row['image']).transpose(2, 0, 1).copy()) for row in read(out)]
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().track_running_stats = False
            module.running_mean = module.running_var = None
    images = model.data_preprocessor(dict(inputs=inputs))['inputs']
    with torch.no_grad():
        expected = model(images, mode='tensor').softmax(1).max(1).values
    assert confidences == pytest.approx(expected.tolist(), abs=0.02)
    assert confidences != pytest.approx(
        [float(row['confidence']) for row in read(found[0])], abs=1e-3
    )


def test_a_strategy_that_trains_is_named(user, tmp_path):
    summary = predict(
        user.config, user.weights, user.folder / 'field', tmp_path / 'x.csv', strategy=['dann']
    )
    assert any('--strategy dann adapts by training' in note for note in summary.notes)


def test_a_checkpoint_that_lacks_weights_is_refused(user, tmp_path):
    content = torch.load(user.weights, weights_only=True)
    del content['state_dict']['head.fc.weight']
    torch.save(content, tmp_path / 'part.pth')
    with pytest.raises(ValueError, match=r'head\.fc\.weight'):
        predict(user.config, tmp_path / 'part.pth', user.folder / 'field', tmp_path / 'x.csv')


def test_without_names_of_classes_their_numbers_are_given(user, tmp_path):
    content = torch.load(user.weights, weights_only=True)
    torch.save(content['state_dict'], tmp_path / 'bare.pth')
    predict(user.config, tmp_path / 'bare.pth', user.folder / 'field', tmp_path / 'x.csv')
    assert {row['prediction'] for row in read(tmp_path / 'x.csv')} <= {'0', '1', '2'}


def test_lists_globs_and_folders_mean_the_same_images(user, tmp_path):
    field = user.folder / 'field'
    names = list(list_images(field))
    assert len(names) == 40 and names == sorted(names)
    (tmp_path / 'list.txt').write_text('\n'.join(names) + '\n')
    assert list(list_images(tmp_path / 'list.txt')) == names
    assert list(list_images(str(field / '**' / '*.png'))) == names
    twice = list_images([field, names[0]])
    assert len(twice) == 40 and 'more than once' in twice.notes[0]
    shutil.copy(names[0], tmp_path / 'one.png')
    assert list(list_images(tmp_path / 'one.png')) == [str(tmp_path / 'one.png')]
    for wrong in (tmp_path / 'nowhere', str(tmp_path / '*.gif')):
        with pytest.raises(FileNotFoundError):
            list_images(wrong)
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='no image'):
        list_images(tmp_path / 'none')


def test_a_head_of_several_scores_predicts_what_it_predicts_in_the_test(user, tmp_path):
    """Conformer's head gives two scores for each image, and adds them."""
    cfg = Config.fromfile(user.config)
    cfg.model.backbone = dict(
        type='Conformer',
        arch=dict(embed_dims=24, channel_ratio=1, num_heads=2, depths=3),
        patch_size=16,
    )
    cfg.model.neck = None
    cfg.model.head = dict(type='ConformerHead', num_classes=3, in_channels=[256, 24])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
    path = tmp_path / 'conformer.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    classifier = load_classifier(cfg, path, 'cpu')
    images = torch.rand(2, 3, 64, 64) * 255
    found = classifier(images).logits.softmax(1)
    model.data_preprocessor.to('cpu')
    with torch.inference_mode():
        inputs = model.data_preprocessor(dict(inputs=images))['inputs']
        expected = torch.stack([sample.pred_score for sample in model(inputs, mode='predict')])
    torch.testing.assert_close(found, expected)
