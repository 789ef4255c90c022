"""Written configs train: from folders, from a config's data sets, with every kind of backbone."""

import os

import numpy as np
import pytest
import timm
import torch
import torchvision
from mmengine.config import Config
from PIL import Image

from tl_plugin.intake.any_data import read_data
from tl_plugin.intake.backbone_choice import check_weights, choose_model
from tl_plugin.intake.config_writer import config_from_data, write_config
from tl_plugin.intake.prepared import prepare_data
from tl_plugin.ladder.ready_config import ready_config
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.ladder.target_labels import build_domain_dataset
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare

BLACK = np.zeros((24, 24, 3))
COLOURS = dict(blue=(0, 0, 1), green=(0, 1, 0), red=(1, 0, 0))


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('any data')
    rng = np.random.default_rng(0)
    for domain, light in (('source', 250), ('target', 120)):
        for name, colour in COLOURS.items():
            for number in range(20):
                pixels = np.array(colour) * light * rng.random((24, 24, 1))
                save(root / domain / name / f'{number}.png', pixels)
    return root


def save(path, pixels=BLACK):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def timm_model(num_classes=3):
    choice = choose_model('timm:mobilenetv3_small_050', num_classes)
    choice.model['backbone']['pretrained'] = False  # no download
    return choice


def written(folders, tmp_path, labels=2, target=None):
    source, target = read_data(folders / 'source'), read_data(target or folders / 'target')
    data = prepare_data(source, target, labels)
    settings = dict(image_size=32, epochs=1, batch_size=8, num_workers=0)
    return data, write_config(data, timm_model(), tmp_path, **settings)


def runner_of(cfg, folder):
    return build_runner(prepare(cfg, work_dir=folder / 'run'))


def lines(dataset):
    return open(dataset.ann_file).read().splitlines()


def test_a_written_config_trains_and_measures_both_domains(folders, tmp_path):
    _, path = written(folders, tmp_path)
    runner = runner_of(load_config(path), tmp_path)
    runner.train()
    metrics = runner.test()
    assert {'source/accuracy/top1', 'target/accuracy/top1'} <= set(metrics)
    assert metrics['source/accuracy/top1'] >= 0


def test_lists_are_disjoint_and_numbered_by_name(folders, tmp_path):
    data, path = written(folders, tmp_path)
    cfg = Config.fromfile(path)
    parts = [set(lines(cfg[f'{split}_dataloader'].dataset)) for split in ('train', 'val', 'test')]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    for line in set.union(*parts):
        name, number = line.rsplit(' ', 1)
        assert name.split('/')[-2] == data.classes[int(number)] == list(COLOURS)[int(number)]
    tests = lines(cfg.test_cfg.dataloaders.target.dataset)
    unlabelled = lines(cfg.ladder.target_dataloader.dataset)
    few = lines(cfg.ladder.labelled_target_dataloader.dataset)
    assert len(tests) == 12 and len(few) == 6
    assert {line.rsplit(' ', 1)[0] for line in few} <= set(unlabelled)
    assert not {line.rsplit(' ', 1)[0] for line in tests} & set(unlabelled)


def test_rungs_on_few_labels_take_steps_enough(folders, tmp_path):
    _, path = written(folders, tmp_path)
    cfg = load_config(path)
    rungs = read_rungs(cfg.ladder)
    for name in ('feature_extraction', 'linear_probe_then_fine_tune', 'fine_tune_l2_sp'):
        ready = ready_config(cfg, rungs[name], seed=0)
        # Six labels, three a batch.
        assert ready.train_cfg.max_epochs * 2 == 300 and ready.train_cfg.val_interval == 15
    assert ready.model.regularizers.l2_sp.exclude == []
    assert ready_config(cfg, rungs['dann'], seed=0).train_cfg.max_epochs == 1


@pytest.mark.parametrize('rung', ['feature_extraction', 'dann'])
def test_the_ladder_climbs_on_it(folders, tmp_path, rung):
    _, path = written(folders, tmp_path)
    cfg = load_config(path)
    ready = ready_config(cfg, read_rungs(cfg.ladder)[rung], seed=0)
    ready.val_cfg = ready.val_dataloader = ready.val_evaluator = None
    ready.train_cfg.max_epochs = 1
    runner_of(ready, tmp_path).train()


def test_a_target_without_labels_is_measured_without(folders, tmp_path):
    flat = tmp_path / 'flat'
    flat.mkdir()
    for path in (folders / 'target').rglob('*.png'):
        (flat / f'{path.parent.name}{path.name}').write_bytes(path.read_bytes())
    _, path = written(folders, tmp_path / 'w', None, flat)
    cfg = load_config(path)
    assert 'labelled_target_dataloader' not in cfg.ladder
    metrics = runner_of(cfg, tmp_path).test()
    assert any(name.startswith('target/') for name in metrics)
    assert 'target/accuracy/top1' not in metrics


def test_a_target_with_labels_on_some_images_is_measured_by_these(folders, tmp_path):
    names = [f'{name}/{n}.png' for name in COLOURS for n in range(20)]
    rows = [f'{name},{name.split("/")[0] if i % 3 else ""}' for i, name in enumerate(names)]
    table = folders / 'target' / 'some.csv'
    table.write_text('image,label\n' + '\n'.join(rows))
    data, path = written(folders, tmp_path, None, table)
    table.unlink()
    cfg = load_config(path)
    for split, loop in (('val', cfg.val_cfg), ('test', cfg.test_cfg)):
        numbers = [int(line.split()[-1]) for line in lines(loop.dataloaders.target.dataset)]
        images = data.target.split(split)
        assert numbers == [-1 if i.label is None else data.classes.index(i.label) for i in images]
        assert 0 < numbers.count(-1) < len(numbers)
        assert loop.evaluators.target.type == 'LabelledOnly'


def test_data_sets_of_configs_keep_their_pipelines_and_are_divided(tmp_path):
    odd = list(range(1, 200, 2))
    for quality, indices in (('clean', 120), ('field', odd)):
        (tmp_path / f'{quality}.py').write_text(
            f'dataset = dict(type="DigitsDataset", quality={quality!r}, split="train", '
            f'indices={indices}, pipeline=[dict(type="PackInputs")])'
        )
    source, target = (read_data(tmp_path / f'{name}.py') for name in ('clean', 'field'))
    data = prepare_data(source, target, 3)
    choice = choose_model('mmpretrain::resnet/resnet18_8xb16_cifar10.py', len(data.classes))
    cfg = Config.fromfile(write_config(data, choice, tmp_path / 'w', num_workers=0))
    parts = [cfg[f'{split}_dataloader'].dataset.indices for split in ('train', 'val', 'test')]
    assert sorted(number for part in parts for number in part) == list(range(120))
    few = cfg.ladder.labelled_target_dataloader.dataset.indices
    assert 20 <= len(few) <= 30 and set(few) < set(odd)
    metrics = runner_of(cfg, tmp_path).test()
    assert 'target/accuracy/top1' in metrics


@pytest.mark.parametrize('labels', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_target_out_of_a_config_is_none_of_the_source(folders, tmp_path, labels):
    """Both are CustomDatasets, and the source's has a list of files to inherit."""
    target = tmp_path / 'target.py'
    root, classes = str(folders / 'target'), sorted(COLOURS)
    target.write_text(
        f'dataset = dict(type="CustomDataset", data_root={root!r}, with_label={labels},'
        f'metainfo=dict(classes={classes}))'
    )
    data, path = written(folders, tmp_path / 'w', None, target)
    cfg = load_config(path)
    for split in ('val', 'test'):
        dataset = build_domain_dataset(cfg, 'target', split)
        paths = {dataset.get_data_info(index)['img_path'] for index in range(len(dataset))}
        assert paths == {item.name for item in data.target.split(split)}
        assert dataset[0]['inputs'].shape == (3, 32, 32)
    metrics = runner_of(cfg, tmp_path).test()
    assert ('target/accuracy/top1' in metrics) == labels


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Weights of the network that the tests write configs for."""
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    torch.save(timm.create_model('mobilenetv3_small_050').state_dict(), path)
    return path


def test_what_a_command_line_names_becomes_a_config(folders, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(weights.parent)
    path = config_from_data(
        str(folders / 'source'),
        str(folders / 'target'),
        'timm:mobilenetv3_small_050',
        tmp_path,
        target_labels='2',
        checkpoint='weights.pth',
        image_size=32,
    )
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.checkpoint_path == str(weights), 'the config is run elsewhere, too'
    assert len(lines(cfg.ladder.labelled_target_dataloader.dataset)) == 6
    assert cfg.model.head.num_classes == 3 and cfg.model.head.in_channels == 1024


def test_too_few_images_are_refused_before_anything_is_written(folders, tmp_path):
    for domain in ('source', 'target'):
        one = tmp_path / domain
        for name in COLOURS:
            save(one / name / '0.png')
        given = {**dict(source=folders / 'source', target=folders / 'target'), domain: one}
        with pytest.raises(ValueError, match=f'the {domain} has too few images, 3, .* least 4'):
            config_from_data(*map(str, given.values()), 'timm:resnet18', tmp_path / 'w')
    assert not (tmp_path / 'w').exists()


def test_notes_on_the_data_are_in_the_config_and_the_target_may_be_taken_unlabelled(
    folders, weights, tmp_path
):
    """Of a reading that leaves files out, classes of other places, and a target of few images."""
    target = tmp_path / "it's a target"
    for place in ('kitchen', 'café'):
        for number in range(2):
            save(target / place / f'{number}.png', np.full((24, 24, 3), number))
    (target / 'kitchen' / 'read me.txt').touch()
    given = [str(folders / 'source'), str(target), 'timm:mobilenetv3_small_050', tmp_path / 'w']
    with pytest.raises(ValueError, match=r'no classes .*: --unlabelled'):
        config_from_data(*given, checkpoint=str(weights))
    cfg = Config.fromfile(config_from_data(*given, checkpoint=str(weights), unlabelled=True))
    left_out, few = cfg.ladder.notes
    assert '1 .txt (kitchen/read me.txt)' in left_out and str(target) in left_out
    assert few == (
        'The target has 2 training images, fewer than a batch of 10: each step sees all of them.'
    )
    assert len(lines(cfg.test_cfg.dataloaders.target.dataset)) == 1
    assert 'source_only' in read_rungs(cfg.ladder)


def test_backbones_of_every_library():
    torchvision = choose_model('torchvision:resnet18', 5)
    assert torchvision.model['backbone']['weights'] == 'DEFAULT'
    assert torchvision.model['head']['in_channels'] == 512
    local = choose_model('timm:resnet18', 5, 'weights.pth').model['backbone']
    assert local['checkpoint_path'] == os.path.abspath('weights.pth') and 'pretrained' not in local
    stock = choose_model('mmpretrain:resnet18_8xb32_in1k', 5)
    assert stock.model['head']['num_classes'] == 5
    assert 'resnet18' in stock.model['backbone']['init_cfg']['checkpoint']
    assert stock.train_pipeline and stock.test_pipeline


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        ('resnet18', 'expected timm:NAME, torchvision:NAME'),
        ('timm:', 'expected timm:NAME'),
        ('timm:resnet_18', 'Did you mean .*resnet18'),
        ('torchvision:resnet_18', 'Did you mean .*resnet18'),
        ('mmpretrain:resnet18', 'Did you mean .*resnet'),
        ('keras:resnet18', 'expected timm:NAME'),
    ],
)
def test_unknown_backbones_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        choose_model(backbone, 5)


def test_weights_that_are_of_no_use_are_refused_before_any_run(folders, weights, tmp_path):
    given = [str(folders / 'source'), str(folders / 'target')]
    with pytest.raises(FileNotFoundError, match='--checkpoint: no weights at '):
        config_from_data('no data yet', '', 'timm:resnet18', tmp_path, checkpoint='gone.pth')
    with pytest.raises(ValueError, match='does not fit ResNet'):
        config_from_data(*given, 'timm:test_resnet', tmp_path, checkpoint=str(weights))
    assert not (tmp_path / 'config.py').is_file()


def test_weights_of_a_backbone_alone_and_of_a_parallel_model_fit_a_config(folders, tmp_path):
    given = [str(folders / 'source'), str(folders / 'target')]
    stock = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    state = torchvision.models.resnet18().state_dict()
    for prefix in ('', 'module.', 'backbone.', 'module.backbone.'):
        torch.save({f'{prefix}{name}': value for name, value in state.items()}, tmp_path / 'w.pth')
        choice = choose_model(stock, 3, str(tmp_path / 'w.pth'))
        assert choice.model['backbone']['init_cfg']['prefix'] == prefix.rstrip('.')
        check_weights(choice)
    torch.save(
        {'bn1.weight': torch.zeros(1), 'bn1.num_batches_tracked': torch.tensor(0)},
        tmp_path / 'w.pth',
    )
    with pytest.raises(ValueError, match='fits ResNet: the network has conv1'):
        config_from_data(*given, stock, tmp_path / 'c', checkpoint=str(tmp_path / 'w.pth'))
