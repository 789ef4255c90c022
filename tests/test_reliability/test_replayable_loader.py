"""What a loader gives is a function of seed, pass and position, and skipped images aren't read."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, RandomSampler

from tl_plugin.reliability import replayable_loader
from tl_plugin.reliability.replayable_loader import ReplayableLoader, seek
from tl_plugin.reliability.seeds import TARGET_STREAM, seeds_at


class Noise(Dataset):
    """Each sample is its index and what the three global generators give."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.read = size, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list:
        self.read.append(index)
        return [index, random.random(), np.random.rand(), torch.rand(()).item()]


def build(sampler=None, batch_size=4, seed=0, stream=0, size=10, **kwargs) -> ReplayableLoader:
    data = Noise(size)
    sampler = sampler(data) if sampler else DefaultSampler(data, shuffle=True, seed=0)
    loader = DataLoader(data, batch_size, sampler=sampler, collate_fn=list, **kwargs)
    return ReplayableLoader.of(loader, seed, stream)


def samples(loader, number=0, batch=0, count=None) -> list:
    found = []
    for at, samples_of_batch in enumerate(seek(loader, number, batch)):
        if at == count:
            break
        found += samples_of_batch
    return found


def test_the_same_comes_whatever_the_workers():
    alone = [samples(build(), number) for number in range(3)]
    pool = build(num_workers=2, persistent_workers=True)
    assert [samples(pool, number) for number in range(3)] == alone
    assert samples(build(num_workers=1), 2) == alone[2]
    assert alone[0] != alone[1]


def test_neither_the_process_nor_what_came_before_matters():
    loader = build()
    straight = samples(loader, 4)
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    samples(loader, 1)
    assert samples(loader, 4) == straight


def test_skipped_batches_are_not_read():
    loader = build()
    straight = samples(loader, 1)
    loader.dataset.read.clear()
    assert samples(loader, 1, 2) == straight[8:]
    assert len(loader.dataset.read) == 2
    assert samples(loader, 1, 3) == []
    assert len(loader) == 3


def test_passes_count_on_by_themselves():
    loader = build()
    counted = [samples(loader, number) for number in range(3)]
    loader.seek(0)
    assert [[s for batch in loader for s in batch] for _ in range(3)] == counted


def test_seed_stream_and_position_tell_samples_apart():
    others = [build(), build(seed=1), build(stream=TARGET_STREAM)]
    values = [sample[1] for loader in others for sample in samples(loader)]
    assert len(set(values)) == 30
    twice = build(sampler=lambda data: [3, 3, 3, 3])  # repeated augmentation
    assert len({sample[1] for sample in samples(twice)}) == 4


@pytest.mark.parametrize('sampler', [RandomSampler, partial(InfiniteSampler, seed=0)])
def test_samplers_that_draw_from_elsewhere(sampler):
    loader = build(sampler)
    straight = samples(loader, 0, 0, 6)
    assert samples(loader, 0, 2, 2) == straight[8:16] != []
    assert samples(build(sampler), 0, 0, 6) == straight


def test_ranks_draw_what_one_process_would(monkeypatch):
    alone = samples(build(batch_size=2, size=8))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(replayable_loader, 'get_dist_info', lambda rank=rank: (rank, 2))
        shares.append(
            samples(build(lambda data, rank=rank: _Share(data, rank), batch_size=1, size=8))
        )
    assert [s for pair in zip(*shares) for s in pair] == alone


class _Share(DefaultSampler):
    def __init__(self, data, rank) -> None:
        super().__init__(data, shuffle=True, seed=0)
        self.rank, self.world_size, self.num_samples = rank, 2, 4


def test_what_is_not_batched_is_drawn_too():
    data = Noise(4)
    loader = ReplayableLoader.of(DataLoader(data, batch_size=None), 0)
    found = [float(sample[1]) for sample in seek(loader, 0)]
    assert [float(sample[1]) for sample in seek(loader, 0, 1)] == found[1:]


def test_it_stands_in_for_its_loader():
    stock = DataLoader(Noise(), 4, drop_last=True)
    loader = ReplayableLoader.of(stock, 0)
    assert isinstance(loader, DataLoader) and loader.dataset is stock.dataset
    assert (loader.batch_size, len(loader), loader.sampler) == (4, 2, stock.sampler)
    assert ReplayableLoader.of(loader, 1) is loader


def test_what_has_no_index_is_left_alone():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(6))

    stock = DataLoader(Stream(), 2)
    assert ReplayableLoader.of(stock, 0) is stock
    assert [batch.tolist() for batch in seek(stock, 0, 1)] == [[2, 3], [4, 5]]


def test_an_unreadable_image_is_replaced_from_its_own_domain():
    class Broken(Noise):
        def __getitem__(self, index):
            if index % 5 == 2:
                raise FileNotFoundError(f'no file {index}')
            return [index + self.size, *super().__getitem__(index)[1:]]

    joined = ConcatDataset([Broken(10), Noise(100)])
    loader = ReplayableLoader.of(DataLoader(joined, 10, collate_fn=list), 0)
    with pytest.raises(FileNotFoundError, match='no file 2'):
        samples(loader)
    reported = []
    loader.tries, loader.on_faults = 5, reported.extend
    found = samples(loader)
    assert len(found) == 110
    assert all(10 <= sample[0] < 20 for sample in found[:10])
    assert reported[0].reason == 'FileNotFoundError: no file 2'
    first = samples(loader)
    assert first == found


def test_code_that_is_wrong_is_not_taken_for_a_broken_image():
    class Wrong(Noise):
        def __getitem__(self, index):
            raise TypeError('a transform with a wrong setting')

    loader = ReplayableLoader.of(DataLoader(Wrong(), 2), 0)
    loader.tries, loader.on_faults = 5, list
    with pytest.raises(TypeError, match='wrong setting'):
        samples(loader)


def test_a_folder_without_images_ends_in_one_error():
    class Gone(Noise):
        def __getitem__(self, index):
            raise FileNotFoundError(f'/data/{index}.png')

    loader = ReplayableLoader.of(DataLoader(Gone(), 2), 0)
    loader.tries, loader.on_faults = 5, list
    with pytest.raises(OSError, match=r'6 images in a row could not be read.*data_root'):
        samples(loader)


def test_seeds_are_those_of_splitmix64():
    # The first numbers of Vigna's reference implementation from the seed 1234567.
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    halves = [[word % 2**32, word >> 32] for word in words]
    expected = [[*halves[0], halves[1][0]], [*halves[2], halves[3][0]]]
    assert seeds_at(1234567, [0, 1]) == expected
    assert seeds_at(2**64 - 1, [10**12])[0] != seeds_at(2**64 - 1, [10**12 + 1])[0]
