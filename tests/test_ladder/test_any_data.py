"""A ladder without a config: two folders of images and the name of a network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from tests.test_ladder.conftest import run_tool

COLOURS = dict(blue=(30, 30, 200), green=(30, 200, 30), red=(200, 30, 30))


@pytest.fixture
def folders(tmp_path):
    """Coloured noise, and the same darker; 24 images of each class and domain."""
    random = np.random.default_rng(0)
    for domain, light in (('source', 1.0), ('target', 0.5)):
        for name, colour in COLOURS.items():
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for index in range(24):
                noise = random.integers(0, 55, (32, 32, 3))
                image = (light * (np.array(colour) + noise)).astype(np.uint8)
                Image.fromarray(image).save(folder / f'{index}.png')
    return tmp_path


def test_climbs_from_folders_alone(folders):
    data = ['--source', folders / 'source', '--target', folders / 'target', '--target-labels', 5]
    (folders / 'target' / 'red' / 'read me.txt').touch()
    weights = folders / 'squeezenet1_1.pth'
    torch.save(squeezenet1_1().state_dict(), weights)
    network = ['--backbone', 'torchvision:squeezenet1_1', '--checkpoint', weights]
    work = ['--work-dir', folders / 'work', '--image-size', 32, '--rungs', 'fine_tune']
    short = ['--cfg-options', 'train_cfg.max_epochs=1', 'param_scheduler=None']
    code, output = run_tool(*data, *network, *work, *short)
    assert code == 0, output
    assert '1 .txt (red/read me.txt)' in output
    results = json.loads((folders / 'work' / 'results.json').read_text())
    assert [rung['name'] for rung in results['rungs']] == ['source_only', 'fine_tune']
    assert results['recommendation']['rung'] in ('source_only', 'fine_tune')
    assert (folders / 'work' / 'config.py').is_file()
    for name, count in (('target_few', 15), ('target_train', None)):
        lines = (folders / 'work' / 'lists' / f'{name}.txt').read_text().splitlines()
        assert count is None or len(lines) == count
    # The same command again goes on where it was: everything is there.
    code, again = run_tool(*data, *network, *work, *short)
    assert code == 0 and again.count('finished before') == 2, again


def test_half_of_it_is_refused(folders):
    code, output = run_tool('--source', folders / 'source', '--backbone', 'timm:resnet18')
    assert code == 2 and 'or --source, --target and --backbone to write one from' in output
