import json

import pytest
from mmengine.config import Config

from tests.folders import CLASSES, WRAPPERS, build, folder, make_folders
from tests.toy import loader
from tl_plugin.datasets.wrappers import image_infos
from tl_plugin.intake.any_data import read_data, read_datasets
from tl_plugin.intake.config_writer import dataset_config
from tl_plugin.intake.label_corrections import (
    correct_config,
    correct_domain,
    correct_domains,
    corrected_config_file,
    read_corrections,
)


@pytest.fixture
def data(tmp_path):
    return make_folders(tmp_path / 'data', 4)


def table(data, rows, name='labels.csv', header='file,given,label'):
    """Rows of an image, and its class in the table, which may be empty."""
    lines = [f'{data / image},{image.split("/")[0]},{label}' for image, label in rows]
    path = data.parent / name
    path.write_text('\n'.join([header, *lines]) + '\n', encoding='utf-8-sig')
    return path


ROWS = [('circle/000.png', 'line'), ('circle/001.png', ''), ('square/002.png', 'square')]


def labels_of(dataset):
    return {
        '/'.join(info['img_path'].split('/')[-2:]): CLASSES[info['gt_label']]
        for info in image_infos(dataset)
    }


def test_a_domain_is_corrected_and_what_changed_is_recorded(data, tmp_path):
    before = sorted(path.read_bytes() for path in data.rglob('*.png'))
    source, few = correct_domains([read_data(data), 5], table(data, ROWS), tmp_path / 'run')
    labels = {'/'.join(item.name.split('/')[-2:]): item.label for item in source.items}
    assert len(labels) == 11 and labels['circle/000.png'] == 'line' and few == 5
    assert 'circle/001.png' not in labels
    assert '1 labels changed, 1 images left out, 1 kept' in source.notes[-1]
    record = json.loads((tmp_path / 'run' / 'label_corrections.json').read_text())
    assert record['changed'] == [
        dict(file=str(data / 'circle/000.png'), before='circle', after='line')
    ]
    assert record['dropped'] == [str(data / 'circle/001.png')] and record['kept'] == 1
    assert sorted(path.read_bytes() for path in data.rglob('*.png')) == before


@pytest.mark.parametrize('name', ['plain', 'repeat', 'balanced', 'fold', 'joined', 'nested'])
def test_a_config_gives_corrected_labels_however_its_data_are_wrapped(data, name):
    loader = dict(batch_size=2, dataset=WRAPPERS[name](folder(data)))
    cfg = Config(dict(train_dataloader=loader), format_python_code=False)
    before = labels_of(build(cfg.train_dataloader.dataset))
    correct_config(cfg, read_corrections(table(data, ROWS)))
    found = labels_of(build(cfg.train_dataloader.dataset))
    expected = {**before, **({'circle/000.png': 'line'} if 'circle/000.png' in before else {})}
    expected.pop('circle/001.png', None)
    assert found == expected


def test_a_written_config_is_read_again_with_its_corrections(data, tmp_path):
    loader = dict(batch_size=2, dataset=folder(data))
    target = dict(target=dict(dataset=dict(data_root=str(make_folders(tmp_path / 'field', 2)))))
    cfg = Config(
        dict(
            train_dataloader=loader,
            val_dataloader=loader,
            val_cfg=dict(type='DomainValLoop', dataloaders=target),
        ),
        format_python_code=False,
    )
    cfg.dump(tmp_path / 'config.py')
    rows = [*ROWS, ('../field/line/001.png', 'circle')]
    path = corrected_config_file(tmp_path / 'config.py', table(data, rows), tmp_path / 'run')
    written = Config.fromfile(path)
    assert '2 labels changed' in written.ladder.notes[0]
    of_target = labels_of(build(written.val_cfg.dataloaders.target.dataset))
    assert of_target['line/001.png'] == 'circle' and len(of_target) == 6
    # As data of a domain, and corrected once more: places stay those of what is left.
    domain = read_data(path)
    assert len(domain.split('train')) == 11
    again = correct_domain(
        domain, read_corrections(table(data, [('line/000.png', ''), ('line/003.png', 'circle')]))
    )
    dataset = build(again.datasets['train'])
    assert len(dataset) == again.sizes['train'] == len(again.split('train')) == 10
    for item in again.split('train'):
        info = dataset.get_data_info(item.place[1])
        assert (info['img_path'], CLASSES[info['gt_label']]) == (item.name, item.label)
    part = dataset_config(again, again.split('train')[:3], again.classes, [], tmp_path / 'none.txt')
    assert [i['img_path'] for i in image_infos(build(part))] == [
        item.name for item in again.split('train')[:3]
    ]


def test_images_in_memory_go_by_their_number():
    domain = read_data('configs/digits/source_only.py')
    wanted = [item for item in domain.items if item.name in ('train/3', 'train/5')]
    other = next(name for name in domain.classes if name != wanted[0].label)
    corrections = read_corrections_of({'train/3': other, 'train/5': None})
    cfg = Config.fromfile('configs/digits/source_only.py')
    plain = build(cfg.train_dataloader.dataset)
    correct_config(cfg, corrections)
    found = build(cfg.train_dataloader.dataset)
    assert len(found) == len(plain) - 1
    assert found.metainfo['classes'][found.get_data_info(3)['gt_label']] == other
    assert (found.get_data_info(5)['img'] == plain.get_data_info(6)['img']).all()
    assert found[0]['inputs'].shape == plain[0]['inputs'].shape
    assert len(correct_domain(domain, read_corrections_of({'train/5': None})).items) == (
        len(domain.items) - 1
    )


def test_a_fold_of_images_in_memory_keeps_its_images_and_numbers():
    fold = dict(type='KFoldDataset', dataset=loader(size=30)['dataset'], seed=1, fold=2)
    cfg = Config(dict(train_dataloader=dict(dataset=fold)), format_python_code=False)
    domain = read_datasets(dict(train=fold), cfg, 'toy')
    other = next(name for name in domain.classes if name != domain.items[3].label)
    table = {'train/3': other, 'train/5': None}
    plain = build(cfg.train_dataloader.dataset)
    correct_config(cfg, read_corrections_of(table))
    found = build(cfg.train_dataloader.dataset)
    assert len(found) == len(plain) - 1 == 23
    assert (found.get_data_info(3)['img'] == domain.items[3].pixels).all()
    assert found.metainfo['classes'][found.get_data_info(3)['gt_label']] == other
    assert (found[5]['inputs'] == plain[6]['inputs']).all()
    # As the domain that diagnose and check_labels read it as.
    again = correct_domain(domain, read_corrections_of(table))
    names = found.metainfo['classes']
    assert [i.label for i in again.items] == [
        names[found.get_data_info(n)['gt_label']] for n in range(23)
    ]
    # What was corrected once is numbered again.
    correct_config(cfg, read_corrections_of({'train/5': None}))
    assert (build(cfg.train_dataloader.dataset)[5]['inputs'] == plain[7]['inputs']).all()


def read_corrections_of(labels):
    from tl_plugin.intake.label_corrections import Corrections

    return Corrections('a table', labels)


def test_what_cannot_be_meant_is_refused(data):
    domain = read_data(data)
    with pytest.raises(ValueError, match=r"the class 'lime', which the data have not.*line"):
        correct_domain(domain, read_corrections(table(data, [('circle/000.png', 'lime')])))
    with pytest.raises(ValueError, match='would leave all images out'):
        read_corrections(table(data, ROWS, header='file,given,truth'))
    elsewhere = read_corrections(table(data.parent, [('nowhere/000.png', 'line')]))
    with pytest.raises(ValueError, match='lists 1 names, and none is an image'):
        correct_config(Config(dict(train_dataloader=dict(dataset=folder(data)))), elsewhere)
    with pytest.raises(FileNotFoundError, match='no table at'):
        read_corrections(data / 'none.csv')
