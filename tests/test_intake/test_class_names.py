"""Source and target that call a class differently, share some, or have folders that are none."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.folders import folder
from tests.toy import toy_config, train
from tl_plugin.intake.any_data import read_data, without_labels
from tl_plugin.intake.images import SPLITS, DomainImages, ImageItem
from tl_plugin.intake.prepared import prepare_data
from tl_plugin.reliability.class_sets import check_width

SHAPES = ('circle', 'line', 'square')
NFC, NFD = (unicodedata.normalize(form, 'Größe é') for form in ('NFC', 'NFD'))


def domain(labels, count=10, name='x'):
    items = [ImageItem(f'{label}/{n}.png', label) for label in labels for n in range(count)]
    return DomainImages(name, tuple(items), tuple(sorted({str(label) for label in labels})))


def folders(root, names, count=6):
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = np.full((8, 8, 3), 20 * number, np.uint8)
            Image.fromarray(picture).save(root / name / f'{number}.png')
    return root


@pytest.mark.parametrize(
    ('source', 'target'),
    [
        ('line', 'Line'),
        ('square', 'square '),
        ('tabby cat', 'tabby_cat'),
        ('tabby-cat', 'TabbyCat'),
        ('1', '01'),
        ('1', '1.0'),
        ('straße', 'STRASSE'),
        ('café', ' Cafe\u0301'),
    ],
)
def test_names_that_differ_in_spelling_alone_are_refused_and_the_fix_works(
    tmp_path, source, target
):
    names = ('circle', source)
    found = folders(tmp_path / 'target', ('circle', target))
    with pytest.raises(ValueError, match=r'differ .* in their spelling') as error:
        prepare_data(domain(names), read_data(found))
    old, new = (eval(part) for part in str(error.value).rsplit('one domain, ')[1].split(' to '))
    assert (old, new) == (target, source)
    (found / old).rename(found / new)
    data = prepare_data(domain(names), read_data(found))
    assert {item.label for item in data.target.items} == set(names) and not data.notes


def test_unicode_forms_of_a_name_are_the_same_name_and_noted():
    data = prepare_data(domain(('circle', NFC)), domain(('circle', NFD)))
    assert {item.label for item in data.target.items} == {'circle', NFC}
    (note,) = data.notes
    assert ascii(NFD) in note and ascii(NFC) in note and 'another Unicode form' in note


def test_accuracy_over_some_of_the_classes_is_noted():
    notes = prepare_data(domain(SHAPES), domain(('line', 'sqare', 'oval'))).notes
    assert 'not know: oval, sqare. Their images count as unlabelled.' in notes[0]
    assert "'sqare' may be 'square'" in notes[0] and 'no image of circle, square' in notes[1]
    assert notes[2].endswith('measured over line alone: 10 of its 30 images.')
    assert prepare_data(domain(SHAPES), domain(SHAPES)).notes == ()


def test_two_spellings_in_the_source_are_two_classes_and_noted():
    both = domain(('A', 'a', 'b'))
    (note,) = prepare_data(both, both).notes
    assert "'A' and 'a' as 2 classes" in note


@pytest.mark.parametrize(
    'names', [('2026-01', '2026-02'), ('cam1', 'cam 2'), ('007', '1021'), ('100CANON', '101CANON')]
)
def test_folders_by_date_camera_or_number_are_an_unlabelled_target(tmp_path, names):
    data = prepare_data(domain(SHAPES), read_data(folders(tmp_path / 'target', names, 10)))
    assert not data.target.labelled and data.target.classes == ()
    assert all(data.target.split(name) for name in SPLITS)
    (note,) = data.notes
    assert all(name in note for name in names) and 'taken as unlabelled' in note


@pytest.mark.parametrize('names', [('kitchen', 'garage'), ('0', '1', '2'), ('room 1', 'garden')])
def test_other_folders_are_refused_and_the_fix_works(tmp_path, names):
    target = read_data(folders(tmp_path / 'target', names, 10))
    with pytest.raises(ValueError, match=r'no class in common.*: --unlabelled') as error:
        prepare_data(domain(SHAPES), target)
    assert ('0 is circle, 1 is line, 2 is square' in str(error.value)) == (names[0] == '0')
    assert not prepare_data(domain(SHAPES), without_labels(target)).target.labelled


def test_a_column_of_dates_is_no_folder():
    with pytest.raises(ValueError, match='no class in common'):
        prepare_data(domain(SHAPES), domain(('2026-01', '2026-02')))


@pytest.mark.parametrize(('count', 'of_each'), [(1, 'there is 1'), (3, 'there is 3')])
def test_too_few_images_are_refused_with_how_many_are_needed(count, of_each):
    for name, source, target in (('source', count, 10), ('target', 10, count)):
        message = f'{name} has too few images.* at least 4 images of each class .*{of_each}'
        with pytest.raises(ValueError, match=message):
            prepare_data(domain(SHAPES, source), domain(SHAPES, target))
    with pytest.raises(ValueError, match=r'target has too few images.* give at least 4 images, or'):
        prepare_data(domain(SHAPES), domain((None,), count))
    # The fixes: as many as it says, splits of one's own, or labels that aren't read.
    data = prepare_data(domain(SHAPES, 4), domain((None,), 4))
    assert all(part.split(name) for part in (data.source, data.target) for name in SPLITS)
    own = [ImageItem(f'{shape}/{split}', shape, split) for shape in SHAPES for split in SPLITS]
    assert prepare_data(DomainImages('x', tuple(own), SHAPES), domain(SHAPES)).notes == ()
    if count == 3:
        prepare_data(domain(SHAPES), without_labels(domain(SHAPES, count)))


def test_classes_that_a_split_lacks_are_named():
    source = DomainImages(
        'x', (*domain(SHAPES[:2], 10).items, ImageItem('s/1.png', 'square')), (*SHAPES, 'mule')
    )
    notes = prepare_data(source, domain((None,))).notes
    assert notes == (
        "The source's train images show no mule.",
        "The source's val images show no square, mule.",
        "The source's test images show no square, mule.",
    )


def test_a_folder_around_those_of_the_classes_is_named_and_the_fix_works(tmp_path):
    folders(tmp_path / 'zip' / 'photos', SHAPES)
    (note,) = prepare_data(read_data(tmp_path / 'zip'), domain((None,))).notes
    assert "one class alone, 'photos': each prediction is right" in note
    assert 'There are the folders circle, line, square in it' in note
    assert read_data(note.split('give ')[1].rstrip('.')).classes == SHAPES


def test_fewer_target_labels_than_asked_for_and_labelled_images_of_elsewhere_are_noted():
    target = domain((*SHAPES[:2], None), 10)
    few = prepare_data(domain(SHAPES), target, 8).notes[0]
    assert few == (
        'There are fewer than 8 labelled target images to train on of circle (6), '
        'line (6), square (0).'
    )
    other = domain(SHAPES, 2, 'others.csv')
    other = replace(other, items=tuple(replace(i, name=f'other/{i.name}') for i in other.items))
    notes = prepare_data(domain(SHAPES), domain((None,), 30), other).notes
    assert notes[0].startswith('6 images of others.csv are not among those of the target')


def test_a_head_of_other_classes_and_folders_that_are_none_have_the_same_fix(tmp_path):
    model = torch.nn.Module()
    model.head = torch.nn.Module()
    model.head.num_classes = 3
    with pytest.raises(ValueError, match=r'target data has 2 .* unlabelled: .*with_label=False'):
        check_width('target', ('2026-01', '2026-02'), model)
    with pytest.raises(ValueError, match=r'source data has 2 .*num_classes=2'):
        check_width('source', ('a', 'b'), model)
    dates = folders(tmp_path / 'dates', ('2026-01', '2026-02'), 1)
    config = dict(type='CustomDataset', data_root=str(dates), metainfo=dict(classes=SHAPES))
    with pytest.raises(ValueError, match=r'2 class folders and 3 classes.*with_label=False'):
        read_config(tmp_path, config)
    found = read_config(tmp_path, dict(config, with_label=False))
    assert len(found.items) == 2 and not found.labelled


def read_config(folder, dataset):
    (folder / 'data.py').write_text(f'dataset = {dataset!r}')
    return read_data(folder / 'data.py')


def test_a_line_of_a_stock_list_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / 'list.txt').write_text('a.png 0\nb.png\n')
    config = dict(type='CustomDataset', ann_file=str(tmp_path / 'list.txt'))
    with pytest.raises(ValueError, match=r'data.py: .*list.txt, line 2: expected the path'):
        read_config(tmp_path, config)


def test_training_names_an_unlabelled_target_and_likely_matches(tmp_path):
    """As tools/train.py builds it: its option is the fix, with which the run trains."""
    source = folders(tmp_path / 'source', SHAPES)
    data = folder(source, _delete_=True)
    options = {'train_dataloader.dataset': data, 'val_dataloader.dataset': data}

    def run(names, **more):
        target = tmp_path / names[0]
        if not target.exists():
            folders(target, names)
        options['train_cfg.target_dataloader'] = dict(dataset=dict(data_root=str(target), **more))
        return train(toy_config(tmp_path / 'run', ['dann'], options, max_epochs=1))

    with pytest.raises(ValueError, match=r'called 2026-01, 2026-02, .* circle') as error:
        run(('2026-01', '2026-02'))
    fix = str(error.value).split('--cfg-options ')[1]
    assert fix == 'train_cfg.target_dataloader.dataset.with_label=False'
    assert run(('2026-01', '2026-02'), with_label=False).iter == 5
    with pytest.raises(ValueError, match=r"one class: 'Line' is 'line', 'square ' is 'square'\."):
        run(('Line', 'circle', 'square '))
