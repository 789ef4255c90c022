"""Tent and SAR against the papers' updates written out by hand, on a norm of each kind."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from tl_plugin.engine.test_time import TestTimeAdapter, TestTimeOptions
from tl_plugin.functional import effective_classes, order_dependence, reliable_entropy

K = 3
NORMS = {
    'batch': lambda: nn.BatchNorm2d(4),
    'batch and more': lambda: BatchNormAct2d(4, act_layer=nn.Tanh),
    'layer': lambda: nn.LayerNorm([4, 8, 8]),
    'group': lambda: nn.GroupNorm(2, 4),
}


class Net(nn.Module):
    def __init__(self, kind: str = 'batch') -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = (
            nn.Conv2d(3, 4, 3, padding=1),
            NORMS[kind](),
            nn.Linear(4, K),
        )
        for value in self.norm.parameters():
            nn.init.uniform_(value, 0.5, 1.5)
        if kind.startswith('batch'):
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images):
        return self.fc(F.relu(self.norm(self.conv(images))).mean((2, 3)))


def images(count=24, seed=1):
    return 2 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def adapter(net, **options):
    net.eval()
    return TestTimeAdapter(net, net, TestTimeOptions.read({'lr': 0.05, 'min_batch': 1, **options}))


def by_hand(net, batches, lr=0.05, momentum=0.9, margin=1.0, rho=0.0, prior=0.0):
    """The same method with torch's own SGD, and entropies from probabilities."""
    net.eval()
    old = [b.clone() for b in net.norm.buffers()][:2]
    optimizer = torch.optim.SGD(net.norm.parameters(), lr, momentum)

    def forward(x):
        if not old:
            return net(x)
        hidden = net.conv(x)
        share = len(x) / (len(x) + prior)
        mean = share * hidden.mean((0, 2, 3)) + (1 - share) * old[0]
        var = share * hidden.var((0, 2, 3), correction=0) + (1 - share) * old[1]
        normed = (hidden - mean[:, None, None]) / (var[:, None, None] + net.norm.eps).sqrt()
        normed = normed * net.norm.weight[:, None, None] + net.norm.bias[:, None, None]
        normed = net.norm.act(normed) if isinstance(net.norm, BatchNormAct2d) else normed
        return net.fc(F.relu(normed).mean((2, 3)))

    def entropy(logits):
        p = logits.softmax(1)
        return -(p * p.log()).sum(1)

    served = []
    for x in batches:
        logits = forward(x)
        served.append(logits.detach())
        h = entropy(logits)
        kept = h < margin * math.log(K) if margin < 1 else h > -1
        if not kept.any():
            continue
        optimizer.zero_grad()
        h[kept].mean().backward()
        if rho:
            values = [*net.norm.parameters()]
            length = torch.cat([v.grad.flatten() for v in values]).norm()
            steps = [rho * v.grad / length for v in values]
            with torch.no_grad():
                for value, step in zip(values, steps):
                    value += step
            h = entropy(forward(x))
            kept &= h < margin * math.log(K)
            optimizer.zero_grad()
            h[kept].mean().backward()
            with torch.no_grad():
                for value, step in zip(values, steps):
                    value -= step
        optimizer.step()
    return served


@pytest.mark.parametrize('kind', NORMS)
@pytest.mark.parametrize(
    'options', [dict(), dict(margin=0.999, rho=0.05, prior=8.0)], ids=['tent', 'sar']
)
def test_it_is_the_method_of_the_paper(kind, options):
    batches = [images(24, seed) for seed in range(3)]
    net, reference = Net(kind), Net(kind)
    method = 'sar' if options else 'tent'
    plain = dict(guard='none', min_entropy=0.0, depth=1.0)
    it = adapter(net, method=method, **plain, **options)
    served = [it(batch) for batch in batches]
    for found, expected in zip(served, by_hand(reference, batches, **options)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for value, other in zip(net.norm.parameters(), reference.norm.parameters()):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)
    assert it.events['steps'] == 3
    # Nothing else has moved, and what trained before still does.
    assert torch.equal(net.conv.weight, Net(kind).conv.weight)
    assert torch.equal(net.fc.weight, Net(kind).fc.weight)
    assert all(value.requires_grad and value.grad is None for value in net.parameters())


@pytest.mark.parametrize(
    'name',
    [
        'tf_efficientnet_lite0',
        'regnety_002',
        'mobilenetv3_small_050',
        'resnet10t',
        'vit_tiny_patch16_224',
    ],
)
def test_real_networks_predict_as_the_source_where_nothing_is_learned(name):
    torch.manual_seed(0)
    options = dict(img_size=64) if name.startswith('vit') else {}
    net = timm.create_model(name, num_classes=K, **options).eval()
    batch = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 64, 64))  # running statistics that differ from the first
        expected = net.eval()(batch)
    it = adapter(net, method='sar', guard='none', lr=0.0, prior=1e9, depth=1.0)
    torch.testing.assert_close(it(batch), expected, rtol=1e-3, atol=1e-4)


def test_resets_give_back_the_source_model_to_the_bit():
    for reason, options in {
        'every 2 batches': dict(reset_interval=2),
        'too low': dict(min_entropy=0.99),
    }.items():
        net, start = Net(), Net().state_dict()
        it = adapter(net, method='tent', guard='none', **options)
        first = it(images())
        assert not torch.equal(net.norm.weight, start['norm.weight'])
        it(images(seed=2))
        it(images())
        (event,) = (name for name in it.events if name.startswith('reset'))
        assert reason in event
        it.reset('asked for')
        state = net.state_dict()
        assert all(
            torch.equal(state[name], value)
            for name, value in start.items()
            if 'tracked' not in name
        )
        assert torch.equal(it(images()), first)


def balanced():
    """A network that predicts each class of the images about equally often."""
    net = Net().eval()
    with torch.no_grad():
        net.fc.weight.mul_(20)
        net.fc.bias.sub_(net(images(600)).mean(0))
    return net


def test_tents_collapse_is_caught():
    batches = [images(24, seed) for seed in range(60)]
    spread, events = {}, {}
    for guard in ('none', 'reset'):
        it = adapter(balanced(), method='tent', lr=0.3, memory=48, guard=guard)
        served = [it(batch).argmax(1).bincount(minlength=K) for batch in batches]
        spread[guard] = float(effective_classes(sum(served[-30:]).float()))
        events[guard] = it.events
    assert spread['none'] < 1.2 < 1.5 < spread['reset']
    assert events['reset']['reset: the adapted predictions have collapsed']


def test_images_of_one_class_are_left_to_the_source_model():
    net = balanced()
    with torch.no_grad():
        every = images(900)
        predicted = net.eval()(every).argmax(1)
        source = net(every[predicted == 0][:24])
    it = adapter(net, method='sar', lr=1.0)
    torch.testing.assert_close(it(every[predicted == 0][:24]), source)
    assert it.events['served by the source model'] == 1 and not it.events['steps']
    mixed = torch.cat([every[predicted == k][:24] for k in predicted.unique()])
    # Its classes are others than those of the stream so far, but for a new stream they are fine.
    assert torch.equal(it(mixed), net(mixed)) and not it.events['steps']
    it = adapter(net, method='sar', margin=1.0)
    # In an order by class, they are a part of a stream that nobody has shuffled.
    assert torch.equal(it(mixed), net(mixed)) and not it.events['steps']
    it = adapter(net, method='sar', margin=1.0)
    # A first batch is left to it, too: its one class, or its order, may only show beside the next.
    for steps, seed in enumerate((0, 1)):
        shuffled = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(seed))
        it(mixed[shuffled])
        assert it.events['steps'] == steps
    it = adapter(net, method='sar', margin=1.0)
    for label in predicted.unique():
        it(every[predicted == label][:24].repeat(2, 1, 1, 1))
    assert not it.events['steps']


def test_order_dependence_is_measured_against_random_orders():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 5)) + 3 * np.eye(5)[np.repeat(np.arange(5), [3, 9, 12, 1, 15])]
    vectors = logits - logits.mean(1, keepdims=True)
    vectors -= vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors @ vectors.T

    def near(order):
        at = np.argsort(order)
        pairs = [(i, j) for i in range(40) for j in range(40) if 0 < abs(at[i] - at[j]) <= 8]
        return sum(alike[pair] for pair in pairs)

    sums = [near(rng.permutation(40)) for _ in range(2_000)]
    found, variance = order_dependence(torch.from_numpy(logits))
    assert float(found) == pytest.approx(near(np.arange(40)) - np.mean(sums), abs=3)
    assert float(variance) == pytest.approx(np.var(sums), rel=0.1)
    assert float(found) > 5 * float(variance) ** 0.5
    assert order_dependence(torch.eye(4)) == (0, 0)


def test_an_order_by_class_shows_where_half_of_the_predictions_are_wrong():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [23, 27, 0, 0, 0, 0, 0])
    found = dict(ordered=[], shuffled=[])
    for _ in range(200):
        logits = rng.normal(size=(50, 7)) + 1.2 * np.eye(7)[labels]
        for name, order in dict(ordered=np.arange(50), shuffled=rng.permutation(50)).items():
            excess, variance = order_dependence(torch.from_numpy(logits[order]))
            found[name].append(float(excess) / float(variance) ** 0.5)
    assert (logits.argmax(1) == labels).mean() < 0.6
    assert np.mean(np.array(found['ordered']) > 1.28) > 0.9
    assert 0.05 < np.mean(np.array(found['shuffled']) > 1.28) < 0.15


def test_single_images_stand_beside_the_last_ones_or_are_refused():
    net, whole = Net(), Net()
    batch = images(20)
    it = adapter(net, method='tent', guard='none', min_batch=4, window=8, lr=0.0)
    found = torch.cat([it(image[None]) for image in batch])
    it = adapter(whole, method='tent', guard='none', lr=0.0)
    with torch.no_grad():
        assert torch.allclose(found[:3], Net().eval()(batch[:3]), atol=1e-5)
    assert torch.allclose(found[-1], it(batch[-8:])[-1], atol=1e-5)
    with pytest.raises(ValueError, match='a batch of 1 images has no statistics'):
        adapter(Net(), method='tent', min_batch=4, window=0)(batch[:1])
    assert adapter(Net('group'), method='sar', window=0)(batch[:1]).shape == (1, K)


@pytest.mark.parametrize('size', [1, 3, 8])
def test_small_batches_are_learned_from_as_large_ones(size):
    colours = torch.arange(120) % K
    colours = colours[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    stream = images(120) + 2 * F.one_hot(colours, K)[:, :, None, None]

    def trained():
        """A model that is right on the stream, and certain."""
        net = Net()
        features = []
        net.norm.momentum = 1.0
        net.fc.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        with torch.no_grad():
            net.train()(stream)
            means = torch.stack([features[0][colours == k].mean(0) for k in range(K)])
            means -= means.mean(0)
            net.fc.weight.copy_(20 * means)
            net.fc.bias.copy_(-net.fc.weight @ features[0].mean(0))
        return net

    field = stream / 4  # the source model is right on it, and less certain than it could be
    it = adapter(trained(), method='sar', min_batch=8, window=16, margin=1.0, lr=0.001)
    found = torch.cat([it(batch) for batch in field.split(size)])
    with torch.no_grad():
        source = trained().eval()(field)
    assert torch.isclose(found, source).all(1).sum() < 80
    assert (found.argmax(1) == colours).float().mean() > 0.9
    assert 5 <= it.events['steps'] <= 120 // 8
    assert not any(name.startswith('reset') for name in it.events)


def test_a_last_small_batch_stands_beside_the_batch_before():
    net = Net()
    batches = images(16), images(3, seed=2)
    it = adapter(net, method='tent', guard='none', min_batch=8, window=12, lr=0.0)
    found = [it(batch) for batch in batches][1]
    beside = adapter(Net(), method='tent', guard='none', lr=0.0)
    beside(batches[0])
    whole = torch.cat([batches[0][-9:], batches[1]])
    assert torch.allclose(found, beside(whole)[-3:], atol=1e-5)
    assert it.events['steps'] == 1


@pytest.mark.parametrize('kind', ['layer', 'group'])
def test_a_single_image_moves_norms_that_need_no_batch_less(kind):
    nets = Net(kind), Net(kind)
    image = images(1)
    adapter(nets[0], method='tent', guard='none', min_batch=16, lr=0.16)(image)
    adapter(nets[1], method='tent', guard='none', min_batch=1, lr=0.01)(image)
    for one, other in zip(*(net.norm.parameters() for net in nets)):
        torch.testing.assert_close(one, other)
    assert not torch.equal(nets[0].norm.weight, Net(kind).norm.weight)


def test_it_runs_in_the_modes_of_prediction():
    expected = adapter(Net(), method='tent')(images())
    for mode in (torch.no_grad(), torch.inference_mode()):
        it = adapter(Net(), method='tent')
        with mode:
            assert torch.equal(it(images()), expected)
        assert it.events['steps'] == 1


def test_what_is_counted():
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    entropy, kept = reliable_entropy(logits, 0.4)
    p = logits.softmax(1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1))
    assert kept.tolist() == [True, False] and reliable_entropy(logits)[1].all()
    assert float(effective_classes(torch.tensor([2.0, 1, 1]))) == pytest.approx(2**1.5)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(method='tant'), 'must be one of tent, sar'),
        (dict(method='sar', marign=1), "no option 'marign'. Did you mean 'margin'"),
        (dict(method='sar', margin=0.0), 'a share of ln K'),
        (dict(method='sar', guard='on'), 'one of none, reset, source'),
        (dict(method='sar', reset_interval=0), 'batches, 1 or more'),
    ],
)
def test_what_it_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        TestTimeOptions.read(options)
    if 'tant' in str(options):
        with pytest.raises(ValueError, match='have none'):
            bare = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2))
            TestTimeAdapter(bare, bare, TestTimeOptions.read(dict(method='tent')))
