import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset

from tl_plugin.engine.loops import PairedLoader
from tl_plugin.reliability.replayable_loader import CyclingLoader


class Numbers(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


def _loader(size, batch_size, seed=0, drop_last=False, sampler=DefaultSampler):
    data = Numbers(size)
    return DataLoader(
        data, batch_size, sampler=sampler(data, shuffle=True, seed=seed), drop_last=drop_last
    )


def _epochs(loader, count, start=0):
    batches = []
    for epoch in range(start, count):
        loader.sampler.set_epoch(epoch)
        batches.append([(b['source'].tolist(), b['target'].tolist()) for b in loader])
    return batches


@pytest.mark.parametrize(('source', 'target'), [(20, 6), (6, 14), (7, 7)])
def test_each_domain_is_seen_whole_before_it_repeats(source, target):
    loader = PairedLoader(_loader(source, 4), _loader(target, 3, seed=1))
    epochs = _epochs(loader, 8)
    assert len(loader) == len(epochs[0]) == -(-source // 4)
    for epoch in epochs:
        assert sorted(i for batch, _ in epoch for i in batch) == list(range(source))
    stream = [i for epoch in epochs for _, batch in epoch for i in batch]
    passes = [stream[i : i + target] for i in range(0, len(stream) - target + 1, target)]
    assert len(passes) > 1
    assert all(sorted(seen) == list(range(target)) for seen in passes)
    assert passes[0] != passes[1]  # reshuffled


def test_a_resumed_pass_goes_on_with_the_same_pairs():
    def build():
        return PairedLoader(_loader(10, 4), _loader(7, 2, seed=1))

    straight = _epochs(build(), 5)
    resumed = _epochs(build(), 5, start=3)
    assert resumed == straight[3:]


def test_passes_go_on_where_nobody_counts_them():
    loader = PairedLoader(_loader(10, 4), _loader(7, 2, seed=1))
    uncounted = [[b['target'].tolist() for b in loader] for _ in range(3)]
    counted = _epochs(PairedLoader(_loader(10, 4), _loader(7, 2, seed=1)), 3)
    assert uncounted == [[target for _, target in epoch] for epoch in counted]


def test_endless_samplers():
    loader = CyclingLoader(_loader(5, 2, sampler=InfiniteSampler))
    straight = [next(loader).tolist() for _ in range(9)]
    other = CyclingLoader(_loader(5, 2, sampler=InfiniteSampler))
    other.seek(6)
    assert [next(other).tolist() for _ in range(3)] == straight[6:]


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match='yields no batch: its data set has 3 images'):
        PairedLoader(_loader(8, 4), _loader(3, 4, drop_last=True))


def test_seek_backwards():
    loader = CyclingLoader(_loader(6, 2))
    first = [next(loader).tolist() for _ in range(4)]
    loader.seek(1)
    assert [next(loader).tolist() for _ in range(3)] == first[1:]
