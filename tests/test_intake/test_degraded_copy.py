import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.forked import run_tool
from tests.test_analysis.hostile_files import FAULTS, write_hostile_files
from tl_plugin.datasets.degrade_quality import DegradeQuality, degrade_image
from tl_plugin.intake.any_data import read_data
from tl_plugin.intake.degraded_copy import write_degraded
from tl_plugin.intake.images import ImageItem

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'degrade.py'


@pytest.fixture
def photos(tmp_path):
    """Ten smooth images of each of two classes."""
    random = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        (tmp_path / 'photos' / label).mkdir(parents=True)
        for number in range(10):
            small = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
            small.resize((48, 40)).save(tmp_path / 'photos' / label / f'{number}.png')
    return tmp_path / 'photos'


def run(*arguments):
    code, said = run_tool(TOOL, *arguments)
    return subprocess.CompletedProcess(arguments, code, said, said)


def test_the_tool_divides_and_degrades_what_it_holds_out(photos, tmp_path):
    dark = ('--corruptions', 'low_light', '--severity', '3')
    found = run(photos, tmp_path / 'out', '--held-out', '0.3', *dark)
    assert found.returncode == 0, found.stderr
    source, target = (read_data(tmp_path / 'out' / name).items for name in ('source', 'target'))
    names = {
        domain: {(item.label, Path(item.name).stem) for item in items}
        for domain, items in (('source', source), ('target', target))
    }
    assert len(names['source']) == 14 and len(names['target']) == 6
    assert not names['source'] & names['target']
    for item in target:
        clean = np.asarray(Image.open(photos / item.label / Path(item.name).name))
        expected = [degrade_image(clean[..., c], {'low_light': 3}, None) for c in range(3)]
        np.testing.assert_array_equal(np.asarray(Image.open(item.name)), np.stack(expected, -1))
    for item in source:
        original = photos / item.label / Path(item.name).name
        assert Path(item.name).read_bytes() == original.read_bytes()

    again = run(photos, tmp_path / 'out', '--held-out', '0.3')
    assert again.returncode and 'is there already: remove it' in again.stderr


def test_same_seed_same_images_and_broken_ones_named(photos, tmp_path):
    (photos / 'dog' / 'broken.png').write_bytes(b'no image')
    items = read_data(photos).items
    content = {}
    for name, seed in (('one', 0), ('two', 0), ('three', 1)):
        (broken,) = write_degraded(items, tmp_path / name, DegradeQuality(seed=seed))
        assert 'dog/broken.png' in broken
        assert json.loads((tmp_path / f'{name}.json').read_text())['left_out'] == [broken]
        content[name] = [path.read_bytes() for path in sorted((tmp_path / name).rglob('*.png'))]
    assert len(content['one']) == 20
    assert content['one'] == content['two'] != content['three']


def test_what_cannot_be_written_apart_is_refused(tmp_path):
    twins = [ImageItem(f'{folder}/1.png', 'cat') for folder in 'ab']
    with pytest.raises(ValueError, match=r'a/1.png and b/1.png would both be written'):
        write_degraded(twins, tmp_path / 'out', None)
    broken = [ImageItem(str(tmp_path / 'missing.png'), 'cat')]
    with pytest.raises(ValueError, match='none of 1 images can be read'):
        write_degraded(broken, tmp_path / 'out', None)
    assert not list(tmp_path.iterdir())


def test_the_tool_survives_hostile_files_and_twins(tmp_path):
    """A pipe, broken files, names that are no text, and names that differ by their ends alone."""
    write_hostile_files(tmp_path / 'photos' / 'cat')
    for name in ('huge.jpg', 'huge.png'):  # degraded too, which takes long
        (tmp_path / 'photos' / 'cat' / name).unlink()
    found = run(tmp_path / 'photos', tmp_path / 'out', '--num-corruptions', '1')
    assert found.returncode == 0, found.stderr
    left_out = [
        Path(line.split(': ')[1]).name
        for line in found.stdout.splitlines()
        if line.startswith('left out: ')
    ]
    for name in ('pipe.jpg', 'nowhere.jpg', 'empty.jpg', 'text.jpg', 'bomb.png', 'fax.pcx'):
        assert name in left_out
    written = {path.name for path in (tmp_path / 'out' / 'cat').iterdir()}
    assert {'good.jpg.png', 'good.png.png', 'UPPER.png', 'latin-1 \udce9.png'} <= written
    # Without these two, and an empty folder is nothing.
    assert len(written) + len(left_out) == len(FAULTS) - 3


def test_wrong_labels_are_a_copy_with_the_truth_beside_it(photos, tmp_path):
    found = run(photos, tmp_path / 'out', '--label-noise', '0.3', '--kind', 'pairs')
    assert found.returncode == 0, found.stderr
    truth = (tmp_path / 'out.truth.csv').read_text().splitlines()
    assert truth[0] == 'file,given,true' and len(truth) == 21
    items = {
        str(Path(item.name).relative_to(tmp_path / 'out')): item
        for item in read_data(tmp_path / 'out').items
    }
    wrong = 0
    for name, given, true in (line.split(',') for line in truth[1:]):
        assert items[name].label == given
        # Names of both classes are alike, so that all were made longer.
        original = photos / true / f'{Path(name).stem.split("_")[0]}.png'
        np.testing.assert_array_equal(Image.open(items[name].name), Image.open(original))
        wrong += given != true
    assert wrong == 6 and '6 of 20 labels are wrong' in found.stdout
    # No other tool takes the truth for labels.
    with pytest.raises(ValueError, match='20 of 20 files not found'):
        read_data(tmp_path / 'out.truth.csv', every_file=True)
