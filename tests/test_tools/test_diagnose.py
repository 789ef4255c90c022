"""The tool on folders full of hostile files: findings, page and config, as a user gets them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests import forked
from tests.pages import Page, check_that_it_stands_alone, numbers
from tests.test_analysis.hostile_files import FAULTS, photo, write_hostile_files
from tl_plugin.analysis.diagnose import Settings, diagnose
from tl_plugin.analysis.findings import printable
from tl_plugin.analysis.quality_gap import LABELS
from tl_plugin.analysis.reading import UNREADABLE
from tl_plugin.analysis.report import ON_PAGE, diagnosis_page
from tl_plugin.intake.any_data import read_data

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 24
OUT = "it's $HOME\\ours"
BROKEN = sorted(
    name for name, kinds in FAULTS.items() if set(kinds) & set(UNREADABLE) and name != 'folder.jpg'
)


def run_tool(*arguments):
    return forked.run_tool(ROOT / 'tools' / 'diagnose.py', *arguments)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Photos of two colours; the target's are dark and noisy, its first class has hostile files."""
    root = tmp_path_factory.mktemp('diagnose')
    for domain in ('source', 'target'):
        for number, name in enumerate(('blue', 'red')):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for seed in range(PHOTOS):
                pixels = photo(seed + 100 * number + 1000 * (domain == 'target')).astype(float)
                pixels[:, :, 2 * number] /= 3
                if domain == 'target':
                    noise = np.random.default_rng(seed).normal(0, 15, pixels.shape)
                    pixels = np.clip(pixels * 0.6 + noise, 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{seed}.png')
    write_hostile_files(root / 'target' / 'blue')
    copy = root / 'source' / 'red' / '0.png'
    (root / 'target' / 'red' / 'copy.png').write_bytes(copy.read_bytes())
    return root


@pytest.fixture(scope='module')
def diagnosed(folders):
    """Through a config as backbone, which needs no weights."""
    config = folders / 'model.py'
    config.write_text(
        "_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
        'model = dict(backbone=dict(base_channels=8, stem_channels=8), '
        'head=dict(in_channels=64))\n'
    )
    code, output = run_tool(
        '--source',
        folders / 'source',
        '--target',
        folders / 'target',
        '--target-labels',
        2,
        '--backbone',
        config,
        '--image-size',
        32,
        '--work-dir',
        folders / OUT,
    )
    assert code == 0, output
    return folders / OUT, output


@pytest.fixture(scope='module')
def findings(diagnosed):
    return json.loads((diagnosed[0] / 'findings.json').read_text())


@pytest.fixture(scope='module')
def page(diagnosed):
    return (diagnosed[0] / 'report.html').read_text()


def test_every_unreadable_file_is_counted_and_named_with_its_fault(findings):
    named = {Path(file['name']).name: file['fault'] for file in findings['target']['unreadable']}
    assert sorted(named) == BROKEN
    assert all((named[name],) == FAULTS[name] for name in BROKEN)
    for kinds in FAULTS.values():
        for kind in set(kinds) - {'not_a_file'}:
            assert findings['target']['faults'][kind] >= 1
    assert findings['source']['unreadable'] == []


def test_json_page_and_terminal_name_every_odd_file_with_what_is_odd(findings, diagnosed, page):
    """Line breaks, quotes, tags and bytes that are no text in their names notwithstanding."""
    target, tables = findings['target'], Page(page).tables
    terminal = kinds_on_terminal(diagnosed[1])
    unreadable = {file['name']: file['fault'] for file in target['unreadable']}
    for name, kinds in FAULTS.items():
        path = str(diagnosed[0].parent / 'target' / 'blue' / name)
        shown = printable(path)
        assert shown.isprintable()
        for kind in () if name == 'folder.jpg' else kinds:
            words = kind.replace('_', ' ')
            if kind in UNREADABLE:
                assert unreadable[path] == kind
                rows = tables[f'{len(BROKEN)} unreadable files of the target']
                assert [shown, words] in [row[:2] for row in rows]
            else:
                assert path in target['odd'][kind]
                rows = tables[f'{words} in the target: {target["faults"][kind]}']
                assert [shown] in rows
            assert shown in terminal[f'{words}: {target["meanings"][kind]}']
        if not kinds:
            assert path not in unreadable
            assert path not in [odd for names in target['odd'].values() for odd in names]
    assert '<img src=x' not in page and '\x1b[2J' not in diagnosed[1]


def kinds_on_terminal(output):
    """Kind of file -> names below it."""
    found, kind = {}, None
    for line in output.splitlines():
        if line.startswith('    '):
            found.setdefault(kind, []).append(line[4:])
        else:
            kind = line
    return found


def test_the_corruption_that_was_added_is_found(findings):
    names = [row['name'] for row in findings['quality']['statistics'][:3] if row['worse']]
    assert 'noise' in names
    noise = next(row for row in findings['quality']['statistics'] if row['name'] == 'noise')
    assert noise['effect']['low'] > 0.5
    assert findings['copies']['across_domains'] >= 1
    assert findings['gap']['proxy_a_distance']['value'] > 0.3


def test_the_page_stands_alone_and_begins_with_the_advice(page, findings):
    read = check_that_it_stands_alone(page)
    assert len(read.pictures) > 10
    headings = [text for tag, text in read.landmarks if tag in ('h1', 'h2')]
    assert headings[1] == findings['advice']['headline']
    for reason in findings['advice']['reasons']:
        assert ' '.join(reason.split()) in read.text


def test_labels_are_judged_and_the_page_says_of_how_many(page, findings):
    for name, compared in zip(('source', 'target'), findings['gap']['images']):
        report = findings['labels'][name]
        assert report['images'] == compared
        said = f'Of {report["images"]} labelled images {report["counts"]["wrong"]} are listed as'
        assert said in ' '.join(Page(page).text.split())


def check_figures(page, findings):
    """Every figure of the page's tables is the JSON's, in its row and its column."""
    tables = Page(page).tables

    def rows(title):
        return {row[0].replace(' (worse)', ''): row[1:] for row in tables[title]}

    def same(cell, *values):
        expected = [number for value in values for number in flat(value)]
        assert numbers(cell) == pytest.approx(expected, rel=6e-3), (cell, expected)

    gap, quality, classifier = (findings[name] for name in ('gap', 'quality', 'classifier'))
    found = rows('The gap')
    for name, label in (
        ('proxy_a_distance', 'Proxy A-distance'),
        ('frechet', 'Fréchet distance'),
        ('domain_accuracy', 'Accuracy of telling them apart'),
        ('mmd', 'Maximum mean discrepancy'),
    ):
        about, between, within = found[label]
        same(between, gap[name])
        same(within, gap['floor'][name])
        if name == 'mmd':
            same(about.split('probability')[1], gap['mmd_p_value'])
    found = rows('Image quality')
    for row in quality['statistics']:
        source, source_tenth, target, target_tenth, effect, *_ = found[LABELS[row['name']].label]
        same(source, row['source'])
        same(target, row['target'])
        same(source_tenth, row['source_tenth'])
        same(target_tenth, row['target_tenth'])
        same(effect, row['effect'])
    found = rows('Class by class')
    for row in classifier['class_gaps']:
        distance, images, source, target, estimated = found[row['name']]
        same(distance, row['distance'])
        same(images, row['source_images'], row['target_images'])
        for cell, shares in (
            (source, 'source_shares'),
            (target, 'target_shares'),
            (estimated, 'estimated_shares'),
        ):
            assert numbers(cell) == [round(100 * classifier[shares][row['name']])]
    found = rows('Files')
    for number, name in enumerate(('source', 'target')):
        domain = findings[name]
        for kind, count in domain['faults'].items():
            same(found[kind.replace('_', ' ')][number], count)
        same(found['all'][number], domain['images'])
        same(found['readable'][number], domain['readable'])
    for name in ('source', 'target'):
        for kind, medians in findings[name]['quality_by_class'].items():
            cells = rows(f'Quality of each class of the {name}')[kind]
            for cell, value in zip(cells, medians.values()):
                same(cell, value)


def flat(value):
    return list(value.values()) if isinstance(value, dict) else [value]


def test_figures_of_the_page_are_those_of_the_json(page, findings):
    check_figures(page, findings)


@pytest.mark.parametrize(
    'path',
    [
        ('gap', 'proxy_a_distance', 'low'),
        ('gap', 'floor', 'frechet'),
        ('gap', 'mmd', 'value'),
        ('quality', 'statistics', 3, 'effect', 'high'),
        ('quality', 'statistics', 0, 'target_tenth'),
        ('classifier', 'class_gaps', 1, 'distance', 'value'),
        ('target', 'faults', 'grey'),
        ('classifier', 'estimated_shares', 'red'),
        ('source', 'readable'),
        ('target', 'quality_by_class', 'red', 'blur'),
    ],
)
def test_a_wrong_figure_would_be_seen(page, findings, path):
    changed = json.loads(json.dumps(findings))
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = part[path[-1]] * 1.5 + 1
    with pytest.raises(AssertionError):
        check_figures(page, changed)


def test_the_page_of_many_files_stays_small(findings):
    """Ten thousand broken and odd files, a thousand classes: the page names some and counts all."""
    many = json.loads(json.dumps(findings))
    target = many['target']
    names = [f'/data/target/a/folder/{number}.jpg' for number in range(10000)]
    target['unreadable'] = [dict(name=n, fault='empty', detail='x' * 50) for n in names]
    target['odd'] = dict.fromkeys(target['odd'], names)
    for domain in ('source', 'target'):
        medians = next(iter(many[domain]['quality_by_class'].values()))
        many[domain]['quality_by_class'] = {f'class {n}': medians for n in range(1000)}
        many[domain]['classes'] = {f'class {n}': 10 for n in range(1000)}
    many['copies']['groups'] = many['copies']['groups'][:1] * 100
    many['copies']['groups'][0]['names'] = names
    page = diagnosis_page(many, {})
    check_that_it_stands_alone(page)
    assert f'And {10000 - ON_PAGE} more, all in findings.json' in page


def test_the_written_config_leaves_out_what_cannot_be_read(diagnosed):
    cfg = Config.fromfile(diagnosed[0] / 'config.py')
    listed = Path(cfg.ladder.target_dataloader.dataset.ann_file).read_text()
    left_out = [name for name, kinds in FAULTS.items() if {'foreign', 'odd_name'} & set(kinds)]
    assert len(left_out) >= 4
    assert not any(f'/{name}\n' in listed for name in [*BROKEN, *left_out])
    assert f'{PHOTOS - 1}.png' in listed or len(listed.splitlines()) > PHOTOS


def test_without_a_backbone_quality_alone_is_compared(folders, tmp_path):
    table = tmp_path / 'source.csv'
    table.write_text('image\n' + '\n'.join(map(str, (folders / 'source').rglob('*.png'))))
    code, output = run_tool(
        '--source',
        table,
        '--target',
        folders / 'target',
        '--work-dir',
        tmp_path / 'out',
        '--processes',
        1,
    )
    assert code == 0, output
    found = json.loads((tmp_path / 'out' / 'findings.json').read_text())
    assert found['gap'] is None and found['quality'] is not None
    assert 'give a --backbone' in ' '.join(output.replace('│', ' ').split())
    assert not (tmp_path / 'out' / 'config.py').exists()


def test_a_proposed_command_works_when_it_is_copied(diagnosed, findings):
    """From a folder whose name a shell would take apart, up to what the ladder asks for."""
    (command,) = findings['advice']['commands']
    assert command in diagnosed[1]
    done = subprocess.run(f'{command} --rungs adabm', shell=True, capture_output=True, text=True)
    assert done.returncode and "there is no 'adabm'. Did you mean 'adabn'?" in done.stderr


def test_notes_on_the_data_reach_the_terminal_the_findings_and_the_config(diagnosed, findings):
    (note,) = [note for note in findings['notes'] if 'left out of training' in note]
    assert '1 .pcx (blue/fax.pcx)' in note and '1 without extension (blue/no_extension)' in note
    assert note in Config.fromfile(diagnosed[0] / 'config.py').ladder.notes
    assert '1 .pcx (blue/fax.pcx)' in ' '.join(diagnosed[1].replace('│', ' ').split())


def test_there_is_no_advice_on_what_cannot_be_read(folders, tmp_path):
    for name in ('1.png', '2.png'):
        (tmp_path / name).write_text('no image')
    domains = [read_data(place) for place in (folders / 'source', tmp_path)]
    with pytest.raises(ValueError, match=r'none of the 2 files of the target .*: 2 not an image'):
        diagnose(*domains, Settings(folder=tmp_path / 'out', processes=1))


def test_a_target_by_date_is_unlabelled_and_other_classes_are_named(folders, tmp_path):
    (tmp_path / '2026-01').symlink_to(folders / 'source' / 'red')
    source, settings = read_data(folders / 'source'), Settings(tmp_path / 'out', processes=1)
    found = diagnose(source, read_data(tmp_path), settings)
    assert found.target.classes == {} and found.target.unlabelled == PHOTOS
    assert 'taken as unlabelled' in found.notes[0] and 'quality' in found.advice.reasons[0]
    (tmp_path / 'Red').symlink_to(folders / 'source' / 'red')
    found = diagnose(source, read_data(tmp_path), settings)
    assert "'Red' is 'red'" in found.notes[0]
