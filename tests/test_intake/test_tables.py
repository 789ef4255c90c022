"""Tables as people have them: missing labels, numbers, other columns, paths of other places."""

import json
from pathlib import Path

import pytest

from tl_plugin.intake.any_data import read_data
from tl_plugin.intake.images import DomainImages, ImageItem
from tl_plugin.intake.prepared import prepare_data

LABELS = ('cat', 'dog')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with twelve files of each class, whose content nobody reads here."""
    root = tmp_path_factory.mktemp('tables') / 'my data'
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for number in range(12):
            (root / label / f'{number} a.png').touch()
    return root


def rows(form='{label}/{number} a.png'):
    return [
        (form.format(label=label, number=number), label) for label in LABELS for number in range(12)
    ]


def write(place, text, name='table.csv'):
    path = place / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8'))
    return path


def table(place, header, lines, name='table.csv'):
    return write(place, '\n'.join([header, *lines]) + '\n', name)


def all_there(domain):
    return [item.label for item in domain.items] == [label for _, label in rows()] and all(
        Path(item.name).is_file() for item in domain.items
    )


@pytest.mark.parametrize(
    ('header', 'end', 'start'),
    [
        ('image,label', '\n', ''),
        ('Image Path;Class-Name', '\r\n', 'sep=;\r\n'),
        ('"file"\t"category"', '\n', '\n\n'),
        (',image,label', '\n', '\ufeff'),
    ],
)
def test_headers_delimiters_and_first_lines(place, header, end, start):
    delimiter = next(d for d in '\t;,' if d in header)
    index = header.startswith(',')
    lines = [
        delimiter.join([*(['7'] if index else []), f'"{name}"', label]) for name, label in rows()
    ]
    empty = delimiter * header.count(delimiter)
    assert all_there(read_data(write(place, start + end.join([header, *lines, empty, '']))))


@pytest.mark.parametrize(
    'marker',
    ['NaN', 'nan', 'None', 'null', 'N/A', 'NA', '<NA>', '?', '-', '', '-1', '-1.0', ' NaN '],
)
def test_a_missing_label_is_none_and_counted(place, marker):
    lines = [f'{name},{label if row % 4 else marker}' for row, (name, label) in enumerate(rows())]
    found = read_data(table(place, 'image,label', lines))
    assert [item.label for item in found.items] == [
        label if row % 4 else None for row, (_, label) in enumerate(rows())
    ]
    assert found.classes == LABELS
    text = marker.strip()
    if text not in ('', '-1', '-1.0'):
        assert f'6 of 24 labels are missing: {text!r}' in found.notes[0]


def test_a_class_folder_may_be_called_as_a_missing_label_is(place, tmp_path):
    for name in ('NA', 'none'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '0.png').touch()
    assert read_data(tmp_path).classes == ('NA', 'none')
    lines = [f'{name},{label}' for (name, _), label in zip(rows(), ['none', 'crack'] * 12)]
    assert read_data(table(place, 'image,label', lines)).classes == ('crack', 'none')


@pytest.mark.parametrize(
    ('written', 'read'),
    [
        (('0.0', '1.0'), ('0', '1')),
        (('0', '1.0'), ('0', '1')),
        (('1.0', '1.5'), ('1.0', '1.5')),
        (('01', '02'), ('01', '02')),
        (('1.', 'dog'), ('1', 'dog')),
    ],
)
def test_numbers_are_numbers(place, written, read):
    lines = [f'{name},{written[LABELS.index(label)]}' for name, label in rows()]
    assert read_data(table(place, 'image,label', lines)).classes == tuple(sorted(read))
    records = [dict(image=name, label=written[LABELS.index(label)]) for name, label in rows()]
    found = read_data(write(place, json.dumps(records), 'table.json'))
    assert found.classes == tuple(sorted(read))


def test_names_of_classes_in_mmengines_json_stay(place):
    records = [dict(img_path=name, gt_label=LABELS.index(label)) for name, label in rows()]
    content = dict(metainfo=dict(classes=['1.0', '2.0']), data_list=records)
    assert read_data(write(place, json.dumps(content), 'table.json')).classes == ('1.0', '2.0')


@pytest.mark.parametrize(
    ('form', 'note'),
    [
        ('{label}\\{number} a.png', '\\ is taken for /'),
        ('.\\{label}\\{number} a.png', '\\ is taken for /'),
        ('./{label}/{number} a.png', ''),
        ('{label}//{number} a.png', ''),
        ('{label}/{number}%20a.png', '%-codes are decoded'),
        ('{label}\\{number}%20a.png', '\\ is taken for / and %-codes are decoded'),
        ('my data/{label}/{number} a.png', 'its paths are relative to'),
        ('my data\\{label}\\{number} a.png', '\\ is taken for /, its paths are relative to'),
        ('  {label}/{number} a.png ', ''),
    ],
)
def test_paths_of_other_systems_and_folders(place, form, note):
    lines = [f'{name},{label}' for name, label in rows(form)]
    found = read_data(table(place, 'image,label', lines))
    assert all_there(found)
    assert [note in text for text in found.notes] == ([True] if note else [])


def test_paths_relative_to_the_current_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    lines = [f'{name},{label}' for name, label in rows()]
    found = read_data(table(tmp_path, 'image,label', lines))
    assert all_there(found) and 'relative to the current folder' in found.notes[0]


def test_rows_without_a_file_are_counted_and_left_out(place):
    lines = [f'{name},{label}' for name, label in [('gone.png', 'cat'), *rows(), ('cat', 'cat')]]
    path = table(place, 'image,label', lines)
    found = read_data(path)
    assert all_there(found) and '2 of 26 files not found' in found.notes[0]
    assert 'gone.png' in found.notes[0] and 'record 1' in found.notes[0]
    assert len(read_data(path, every_file=True).items) == 26


@pytest.mark.parametrize(
    ('form', 'message'),
    [
        ('C:\\photos\\{label}\\{number}.png', 'absolute path'),
        ('/mnt/{label}/{number}.png', 'absolute'),
        ('https://example.org/{label}/{number}.png', 'an address'),
        ('pictures/{label}/{number}.png', r'looked in .*my data, '),
    ],
)
def test_no_file_at_all_is_an_error(place, form, message):
    path = table(place, 'image,label', [f'{name},{label}' for name, label in rows(form)])
    with pytest.raises(ValueError, match=f'24 of 24 files not found, the first is .*{message}'):
        read_data(path)


def test_a_label_column_of_another_name_is_named_and_the_fix_works(place):
    lines = [f'{name},7,{label}' for name, label in rows()]
    found = read_data(table(place, 'filename,width,breed', lines))
    assert not found.labelled
    (note,) = found.notes
    assert 'not used: width, breed' in note and "'breed' has 2 values in 24 rows" in note
    target = DomainImages('x', tuple(ImageItem(f'{n}.png') for n in range(20)))
    message = r"has no labels: .*'breed' has 2 values .* call the column"
    with pytest.raises(ValueError, match=message):
        prepare_data(found, target)
    assert note in prepare_data(read_data(place), found).notes
    found = read_data(table(place, 'filename,width,label', lines))
    assert all_there(found) and prepare_data(found, target).classes == LABELS


@pytest.mark.parametrize('encoding', ['utf-16', 'latin-1'])
def test_other_encodings_are_refused_with_a_fix_that_works(place, encoding):
    text = '\n'.join(['image,label', *(f'{name},größe_{label}' for name, label in rows())])
    with pytest.raises(ValueError, match=r'expected text in UTF-8, got .* save it as UTF-8'):
        read_data(write(place, text.encode(encoding)))
    found = read_data(write(place, text.encode('utf-8-sig')))
    assert found.classes == ('größe_cat', 'größe_dog')
