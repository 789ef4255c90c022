"""Degraded copies that the runs of a climb share."""

import pytest
import torch

from tl_plugin.evaluation.source_reference import degradations, degraded_copies
from tl_plugin.ladder import shared_copies as module
from tl_plugin.ladder.shared_copies import shared_copies

IMAGES = list(torch.randint(256, (3, 3, 16, 16), generator=torch.manual_seed(0)).byte())


def test_the_second_run_reads_what_the_first_one_made(tmp_path, monkeypatch):
    expected = list(degraded_copies(IMAGES))
    first = list(shared_copies(tmp_path, IMAGES))
    made = []
    monkeypatch.setattr(module, 'degraded_copies', lambda images: made.append(images) or iter(()))
    second = list(shared_copies(tmp_path, IMAGES))
    assert not made
    for found in (first, second):
        assert [name for name, _ in found] == list(degradations())
        for (_, copies), (_, right) in zip(found, expected):
            assert torch.equal(torch.stack(list(copies)), torch.stack(list(right)))
    assert [path.suffix for path in tmp_path.iterdir()] == ['.npy']
    # Other images, if only by a bit, aren't these.
    list(shared_copies(tmp_path, [IMAGES[0] ^ 1, *IMAGES[1:]]))
    assert len(made) == 1


def test_what_fits_no_file_is_made_anew(tmp_path, monkeypatch):
    several = [IMAGES[0], IMAGES[1][:, :8]]
    assert [len(copies) for _, copies in shared_copies(tmp_path, several)] == [2] * 24
    monkeypatch.setattr(module, 'MAX_BYTES', 24 * 3 * 3 * 16 * 16 - 1)
    assert len(list(shared_copies(tmp_path, IMAGES))) == 24
    assert not list(tmp_path.iterdir())


def test_images_that_are_no_bytes_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match='made of bytes'):
        list(shared_copies(tmp_path, [image.float() for image in IMAGES]))
    assert not list(tmp_path.iterdir())
