"""The configs that people copy are small, build, and train by mmpretrain's own tool."""

import re
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from tests.programs import run_program
from tl_plugin.strategies import configs_dir

LEAVES = sorted((configs_dir() / 'class_folders').glob('*.py'))
CLASSES = [f'class_{index}' for index in range(7)]
LEAF_FOR_MIM = 'timm-efficientnet-lite0_dann.py'
STOCK_TRAIN = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The folders that the configs name, two images a class; target/train has no class folders."""
    root = tmp_path_factory.mktemp('class folders')
    random = np.random.default_rng(0)
    for split in ('source/train', 'source/val', 'target/labelled', 'target/val', 'target/train'):
        for name in CLASSES:
            folder = root / 'data' / split / ('' if split == 'target/train' else name)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(2):
                pixels = random.integers(0, 255, (72, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{name}_{index}.jpg')
    return root


def cfg_bases(path):
    """Return the leaf and the leaf that it begins with, if it does."""
    base = re.search(r"^_base_ = '(\./.*?)'", path.read_text(), re.MULTILINE)
    return [path, *([path.parent / base.group(1)] if base else [])]


# No weights from the internet, few images at a time.
LOCAL = {
    'model.backbone.init_cfg': None,
    'load_from': None,
    'train_dataloader.num_workers': 0,
    'train_dataloader.batch_size': 7,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
}


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_leaf_configs_are_small_and_build(path, data, monkeypatch, tmp_path):
    monkeypatch.chdir(data)
    assert len(path.read_text().splitlines()) <= 24
    cfg = Config.fromfile(path)
    bases = cfg_bases(path)
    assert any('mmpretrain::' in base.read_text() for base in bases)
    cfg.merge_from_dict(LOCAL)
    if 'pretrained' in cfg.model.backbone:
        cfg.model.backbone.pretrained = False
    cfg.work_dir = str(tmp_path)
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'leaf_{path.stem}'
    runner = Runner.from_cfg(cfg)
    train_loop, val_loop = (
        runner.build_train_loop(cfg.train_cfg),
        runner.build_val_loop(cfg.val_cfg),
    )
    assert len(train_loop.dataloader.dataset) == len(val_loop.dataloader.dataset) == 14
    if 'dann' in path.stem:
        assert len(train_loop.dataloader.target.loader.dataset) == 14
        assert runner.model.alignments


def test_mmpretrains_own_train_tool_runs_a_leaf(data, tmp_path):
    """What `mim train mmpretrain CONFIG` calls."""
    options = {**LOCAL, 'train_cfg.max_epochs': 1, 'default_hooks.logger.interval': 1}
    options.update({'param_scheduler': None, 'model.backbone.pretrained': False})
    code, said = run_program(
        STOCK_TRAIN,
        configs_dir() / 'class_folders' / LEAF_FOR_MIM,
        '--work-dir',
        tmp_path,
        '--no-pin-memory',
        '--no-persistent-workers',
        '--cfg-options',
        *(f'{key}={value}' for key, value in options.items()),
        cwd=data,
    )
    assert code == 0, said[-3000:]
    assert (tmp_path / 'epoch_1.pth').is_file()
    log = next(tmp_path.glob('*/vis_data/scalars.json')).read_text()
    for name in ('loss_dann', 'dann_accuracy', 'dann_reversal_weight', 'target/accuracy/top1'):
        assert name in log
