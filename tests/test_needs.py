"""What the overlays say they need works as it is written, whatever wraps the source."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from tests.folders import WRAPPERS, build, folder, make_folders
from tl_plugin.datasets.wrappers import image_infos
from tl_plugin.engine.loops.inherit import inherit_dataloader, unlabelled_dataloader
from tl_plugin.launch.configs import merge_options
from tl_plugin.strategies import apply_strategies

OVERLAYS = Path(__file__).resolve().parents[1] / 'configs' / 'strategies'
OPTION = re.compile(r'^# .* ((\S*dataloader)\.dataset\.data_root)=(data/target/train)$', re.M)
NEEDS = {
    path.stem: found
    for path in sorted(OVERLAYS.glob('*.py'))
    if (found := OPTION.search(path.read_text()))
}


def test_many_overlays_say_so():
    assert {'dann', 'cdan', 'mcc', 'adabn', 'quality_matched', 'shot'} <= set(NEEDS)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('source/train', 'source/val'):
        make_folders(tmp_path / 'data' / name, 4)
    make_folders(tmp_path / 'data/target/train', dict(circle=2, line=5, square=2))


@pytest.mark.parametrize('name', NEEDS)
def test_needs(data, name):
    option, key, place = NEEDS[name].groups()
    for wrap in WRAPPERS.values():
        loaders = {
            f'{split}_dataloader': dict(dataset=wrap(folder(f'data/source/{part}')))
            for split, part in (('train', 'train'), ('val', 'val'), ('test', 'val'))
        }
        loaders.update(train_cfg=dict(by_epoch=True, max_epochs=1))
        loaders.update(model=dict(type='ImageClassifier', backbone=dict(), head=dict()))
        cfg = apply_strategies(Config(loaders, format_python_code=False), [name])
        merge_options(cfg, {option: place})
        if key == 'train_dataloader':
            loader = unlabelled_dataloader(cfg.train_dataloader, key)
        else:
            in_hook = key.startswith('custom_hooks')
            owner = cfg.custom_hooks[-1] if in_hook else cfg.train_cfg
            base = cfg.val_dataloader if in_hook else cfg.train_dataloader
            loader = inherit_dataloader(base, owner.target_dataloader, key)
        paths = [info['img_path'] for info in image_infos(build(loader['dataset']))]
        assert len(paths) == 9 and all(path.startswith(place) for path in paths)
