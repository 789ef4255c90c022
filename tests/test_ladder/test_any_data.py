"""A ladder without a config: two folders of images and the name of a network."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torchvision.models import squeezenet1_1

from tests.test_ladder.conftest import run_tool, write_tiny
from tl_plugin.ladder import quick
from tl_plugin.ladder.quick import check_has_weights, quick_side
from tl_plugin.ladder.run_ladder import choose_rungs
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.launch.configs import load_config

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


def test_a_quick_look_is_marked_as_such_and_tells_the_cost_of_the_full_climb(folders):
    data = ['--source', folders / 'source', '--target', folders / 'target', '--target-labels', 5]
    weights, work = folders / 'squeezenet1_1.pth', folders / 'work'
    torch.save(squeezenet1_1().state_dict(), weights)
    network = ['--backbone', 'torchvision:squeezenet1_1', '--checkpoint', weights]
    code, output = run_tool(*data, *network, '--work-dir', work, '--image-size', 32, '--quick')
    assert code == 0, output
    results = json.loads((work / 'results.json').read_text())
    found = {rung['name']: rung for rung in results['rungs']}
    # squeezenet has no batch norm for adabn.
    assert list(found) == ['source_only', 'frozen_alignment', 'feature_extraction']
    said = r'A quick look: images of 32 pixels.* full climb of (\d+) rungs takes about (.*?) here.*'
    (note,) = [note for note in results['notes'] if note.startswith('A quick look')]
    count = int(re.fullmatch(said, note)[1])
    assert count > len(found) and str(work / 'full' / 'config.py') in note
    assert 'A quick look' in (work / 'report.html').read_text()
    full = load_config(work / 'full' / 'config.py')
    assert full.train_cfg.max_epochs == 20 and 'source_only' not in (full.ladder.rungs or {})
    # The network is as it came, but for its last layer.
    own = torch.load(weights, weights_only=True)
    trained = torch.load(found['feature_extraction']['checkpoint'], weights_only=True)
    trained = {name: v for name, v in trained['state_dict'].items() if name.startswith('backbone')}
    assert len(trained) > 40
    for name, value in trained.items():
        given = next(own[other] for other in own if name.endswith(other))
        assert torch.equal(value, given), name
    assert found['feature_extraction']['trainable_parameters'] == 3 * 512 + 3


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['config.py', '--quick'], '--quick is for --source'),
        (['config.py', '--launcher', 'slurm', '--jobs', '2'], '--jobs works on this machine alone'),
        (['config.py', '--partition', 'gpu'], '--partition works with --launcher slurm alone'),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, said):
    code, output = run_tool(*arguments)
    assert code == 2 and said in output


def test_features_of_an_untrained_network_are_refused():
    with pytest.raises(ValueError, match='no weights: give them with --checkpoint'):
        check_has_weights(False)


def test_a_quick_look_takes_a_size_that_the_network_takes():
    model = dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=3))

    def side(own, **backbone):
        model['head']['in_channels'] = backbone.pop('width')
        return quick_side(Config(dict(model=dict(model, backbone=backbone))), own)

    squeezenet = dict(type='PooledTorchvisionBackbone', model_name='squeezenet1_1', width=512)
    assert side(224, **squeezenet) == 96
    assert side(64, **squeezenet) == 64
    vit = dict(type='PooledTimmBackbone', model_name='vit_tiny_patch16_224', width=192)
    assert side(224, **vit) == 224


def test_the_cost_of_a_climb_grows_with_its_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(quick, '_seconds_of_an_image', lambda cfg, side: (0.03, 0.01))
    cfg = load_config(write_tiny(tmp_path))  # 32 source images, 2 epochs, 20 + 30 measured
    rungs = {rung.name: rung for rung in choose_rungs(cfg)[1]}
    alone = quick.cost_of_climb(cfg, [rungs['source_only']], 32)
    assert alone == pytest.approx(2 * 32 * 0.03 + 2 * 50 * 0.01 + 2 * 50 * 0.01)
    dann = quick.cost_of_climb(cfg, [rungs['source_only'], read_rungs(cfg.ladder)['dann']], 32)
    assert dann - alone == pytest.approx(2 * 64 * 0.03 + 2 * 50 * 0.01 + 2 * 50 * 0.01)


def test_half_of_it_is_refused(folders):
    code, output = run_tool('--source', folders / 'source', '--backbone', 'timm:resnet18')
    assert code == 2 and 'or --source, --target and --backbone to write one from' in output
