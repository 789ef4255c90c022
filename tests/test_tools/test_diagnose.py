"""The tool on folders full of hostile files: findings, page and config, as a user gets them."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.test_analysis.hostile_files import FAULTS, photo, write_hostile_files
from tl_plugin.analysis.reading import UNREADABLE
from tl_plugin.analysis.report import figure

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 14
BROKEN = sorted(name for name, kinds in FAULTS.items()
                if set(kinds) & set(UNREADABLE) and name != 'folder.jpg')  # fmt: skip


def run_tool(*arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'diagnose.py'), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return done.returncode, done.stdout + done.stderr


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
    config.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
                      'model = dict(backbone=dict(base_channels=8, stem_channels=8), '
                      'head=dict(in_channels=64))\n')
    code, output = run_tool(
        '--source', folders / 'source', '--target', folders / 'target', '--target-labels', 2,
        '--backbone', config, '--image-size', 32, '--work-dir', folders / 'out')
    assert code == 0, output
    return folders / 'out', output


@pytest.fixture(scope='module')
def findings(diagnosed):
    return json.loads((diagnosed[0] / 'findings.json').read_text())


@pytest.fixture(scope='module')
def page(diagnosed):
    return (diagnosed[0] / 'report.html').read_text()


def test_every_hostile_file_is_named_with_its_fault(findings, diagnosed):
    named = {Path(file['name']).name: file['fault'] for file in findings['target']['unreadable']}
    assert sorted(named) == BROKEN
    assert all((named[name],) == FAULTS[name] for name in BROKEN)
    for kinds in FAULTS.values():
        for kind in set(kinds) - {'not_a_file'}:
            assert findings['target']['faults'][kind] >= 1
    assert 'too_large' in diagnosed[1] and 'bomb.png' in diagnosed[1]
    assert findings['source']['unreadable'] == []


def test_the_fault_that_was_added_is_found(findings):
    names = [row['name'] for row in findings['quality']['statistics'][:3] if row['worse']]
    assert 'noise' in names
    noise = next(row for row in findings['quality']['statistics'] if row['name'] == 'noise')
    assert noise['effect']['low'] > 0.5
    assert findings['copies']['across_domains'] >= 1
    assert findings['gap']['proxy_a_distance']['value'] > 0.3


def test_the_page_needs_no_network_and_shows_pictures_with_words(page):
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.pictures, self.sources = [], []

        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            self.sources += [attributes[key] for key in ('src', 'href') if key in attributes]
            if tag == 'img':
                self.pictures.append(attributes)

    reader = Reader()
    reader.feed(page)
    assert len(page) < 5_000_000 and 'width=device-width' in page
    assert all(source.startswith('data:image/') for source in reader.sources)
    assert not re.search(r'https?://|@import|url\(', page)
    assert len(reader.pictures) > 10
    for picture in reader.pictures:
        assert len(picture['alt']) > 15
        kind, content = picture['src'].split(',')
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert image.format.lower() == kind.split('/')[1].split(';')[0] and image.width > 1


def test_figures_of_the_page_are_those_of_the_json(page, findings):
    cells = re.findall(r'<td[^>]*>([^<]*)</td>', page)
    gap = findings['gap']
    for name in ('proxy_a_distance', 'domain_accuracy', 'mmd', 'frechet'):
        assert figure(gap[name]) in cells and figure(gap['floor'][name]) in cells
    for row in findings['quality']['statistics']:
        assert figure(row['effect']) in cells and figure(row['source']) in cells
    for row in findings['classifier']['class_gaps']:
        assert figure(row['distance']) in cells
    for name in ('source', 'target'):
        assert str(findings[name]['images']) in cells
    assert findings['recommendation']['headline'] in page.replace('&#39;', "'")


def test_the_written_config_leaves_out_what_cannot_be_read(diagnosed):
    cfg = Config.fromfile(diagnosed[0] / 'config.py')
    listed = Path(cfg.ladder.target_dataloader.dataset.ann_file).read_text()
    assert not any(f'/{name}\n' in listed for name in BROKEN)
    assert f'{PHOTOS - 1}.png' in listed or len(listed.splitlines()) > PHOTOS


def test_without_a_backbone_quality_alone_is_compared(folders, tmp_path):
    table = tmp_path / 'source.csv'
    table.write_text('image\n' + '\n'.join(map(str, (folders / 'source').rglob('*.png'))))
    code, output = run_tool('--source', table, '--target', folders / 'target', '--work-dir',
                            tmp_path / 'out', '--processes', 1)
    assert code == 0, output
    found = json.loads((tmp_path / 'out' / 'findings.json').read_text())
    assert found['gap'] is None and found['quality'] is not None
    assert 'give a --backbone' in output.replace('\n', ' ')
    assert not (tmp_path / 'out' / 'config.py').exists()
