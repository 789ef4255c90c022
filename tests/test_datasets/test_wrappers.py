"""What data sets hold, whatever wraps them."""

import pytest
from torch.utils.data import ConcatDataset, Subset

from tests.folders import WRAPPERS, build, folder, make_folders
from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import image_infos, inner_configs, inner_datasets, joined_datasets


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp('data')
    return [make_folders(base / name, count) for name, count in (('a', 4), ('b', 2))]


def _paths(dataset):
    return [info['img_path'] for info in image_infos(dataset)]


@pytest.mark.parametrize('kind', WRAPPERS)
def test_each_image_that_is_described_once(roots, kind):
    config = WRAPPERS[kind](folder(roots[0]))
    dataset = build(config)
    found = _paths(dataset)
    assert len(found) == len(set(found)) == (9 if kind == 'fold' else 12)
    given = {dataset.get_data_info(index)['img_path'] for index in range(len(dataset))}
    assert set(found) == given
    assert [inner['data_root'] for inner in inner_configs(config)] == [str(roots[0])]
    (inner,) = inner_datasets(dataset)
    assert type(inner).__name__ == 'CustomDataset'
    assert 'CustomDataset(data_root=' in describe_data(dataset) == describe_data(dataset)


def test_what_is_joined_comes_in_order_and_a_subset_is_followed_inside(roots):
    config = WRAPPERS['repeat'](
        dict(
            type='SeveralSources',
            datasets=[folder(roots[0]), WRAPPERS['balanced'](folder(roots[1]))],
        )
    )
    dataset = build(config)
    assert len(_paths(dataset)) == 18
    assert len(joined_datasets(dataset)) == len(joined_datasets(config)) == 2
    wanted = [0, 5, 14, len(dataset) - 1]
    expected = {dataset.get_data_info(index)['img_path'] for index in wanted}
    assert len(expected) == 4
    assert set(_paths(Subset(dataset, wanted))) == expected
    assert set(_paths(Subset(ConcatDataset([dataset, dataset]), wanted))) == expected
    fold = build(WRAPPERS['fold'](folder(roots[0])))
    assert set(_paths(Subset(fold, [0, 1]))) == {fold.get_data_info(i)['img_path'] for i in (0, 1)}


def test_a_data_set_of_another_kind_is_named():
    with pytest.raises(
        TypeError, match='list does not describe its images: expected get_data_info'
    ):
        list(image_infos([1, 2]))
