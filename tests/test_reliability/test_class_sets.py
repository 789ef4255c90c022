"""Class names of data sets, whatever wraps them."""

import pytest

from tests.folders import CLASSES, WRAPPERS, build, folder, make_folders
from tl_plugin.reliability.class_sets import dataset_classes

NUMBERS = [str(number) for number in range(11)]


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp('data')
    ten = make_folders(base / 'ten', dict.fromkeys(NUMBERS, 4))
    return ten, make_folders(base / 'shapes')


@pytest.mark.parametrize('kind', WRAPPERS)
def test_folders_that_sort_otherwise_than_the_names_are_refused(roots, kind):
    wrong = build(WRAPPERS[kind](folder(roots[0], metainfo=dict(classes=NUMBERS))))
    with pytest.raises(ValueError, match='number 2 is 10 in the folders and 2 in metainfo'):
        dataset_classes(wrong)
    right = build(WRAPPERS[kind](folder(roots[0], metainfo=dict(classes=sorted(NUMBERS)))))
    assert list(dataset_classes(right)) == sorted(NUMBERS)
    assert list(dataset_classes(build(WRAPPERS[kind](folder(roots[0]))))) == sorted(NUMBERS)


def test_joined_data_sets_have_one_set_of_classes(roots):
    parts = [folder(roots[1]), folder(roots[1], metainfo=dict(classes=['a', 'line', 'square']))]
    joined = build(dict(type='ConcatDataset', datasets=parts, ignore_keys='classes'))
    with pytest.raises(ValueError, match=r'missing in CustomDataset\(.*\): a; missing in CustomD'):
        dataset_classes(joined)
    late = [folder(roots[1], with_label=False), folder(roots[1])]
    joined = build(dict(type='ConcatDataset', datasets=late, ignore_keys='classes'))
    assert list(dataset_classes(joined)) == list(CLASSES)
    assert dataset_classes(build(late[0])) == dataset_classes([]) == ()
