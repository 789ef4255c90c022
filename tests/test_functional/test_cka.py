"""Debiased CKA against two independent ways to compute it."""

from itertools import permutations

import numpy as np
import pytest
import torch

from tl_plugin.functional import linear_gram, minibatch_cka, unbiased_hsic

RANDOM = np.random.default_rng(0)


def _hsic_by_definition(first, second):
    """Song et al., theorem 5: the mean over all quadruples of images, no trick."""
    total, count = 0.0, 0
    for t, u, v, w in permutations(range(len(first)), 4):
        total += first[t, u] * (second[t, u] + second[v, w] - 2 * second[t, v])
        count += 1
    return total / count


def _kornblith_debiased(x, y):
    """Linear CKA debiased in feature space, as Kornblith et al. publish it."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)

    def similarity(a, b):
        rows = (a**2).sum(1) @ (b**2).sum(1)
        norms = (a**2).sum() * (b**2).sum()
        return ((a.T @ b) ** 2).sum() - n / (n - 2) * rows + norms / ((n - 1) * (n - 2))

    return similarity(x, y) / np.sqrt(similarity(x, x) * similarity(y, y))


def _features(images=12, width=7, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(images, width)) + 3
    return x, np.tanh(x @ random.normal(size=(width, 5))) + 0.3 * random.normal(size=(images, 5))


def test_hsic_is_the_mean_over_all_quadruples():
    x, y = _features(7)
    grams = [torch.tensor(each @ each.T) for each in (x, y)]
    expected = _hsic_by_definition(*(gram.numpy() for gram in grams))
    assert unbiased_hsic(*grams).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('images', [4, 12, 50])
def test_cka_is_that_of_its_authors(images):
    x, y = _features(images)
    found = minibatch_cka([linear_gram(torch.tensor(x))], [linear_gram(torch.tensor(y))])
    assert found == pytest.approx(_kornblith_debiased(x, y), rel=1e-9)


def test_maps_are_flattened_and_half_precision_is_widened():
    maps = torch.randn(6, 4, 3, 3)
    torch.testing.assert_close(linear_gram(maps), linear_gram(maps.flatten(1)))
    assert linear_gram(maps.bfloat16()).dtype == torch.float32


def test_rotation_scale_and_shift_change_nothing():
    x = torch.tensor(_features(10)[0])
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.double))[0]
    moved = 5 * x @ rotation + 100
    assert minibatch_cka([linear_gram(x)], [linear_gram(moved)]) == pytest.approx(1, abs=1e-9)


def test_batches_add_up_before_the_division():
    pairs = [_features(8, seed=seed) for seed in range(3)]
    sums = np.zeros(3)
    for x, y in pairs:
        x, y = x - x.mean(0), y - y.mean(0)
        grams = x @ x.T, y @ y.T
        sums += [_hsic_by_definition(*two) for two in (grams, grams[:1] * 2, grams[1:] * 2)]
    source, adapted = ([linear_gram(torch.tensor(pair[i])) for pair in pairs] for i in (0, 1))
    expected = sums[0] / np.sqrt(sums[1] * sums[2])
    assert minibatch_cka(source, adapted) == pytest.approx(expected, rel=1e-9)


def test_the_size_of_batches_moves_the_mean_hardly_and_unrelated_features_give_zero():
    """What the plain estimator, which is near 1 with few images and wide features, can't."""
    x, y = RANDOM.normal(size=(1024, 64)), RANDOM.normal(size=(1024, 64))
    y[:, :32] = x[:, :32]
    whole = _kornblith_debiased(x, y)
    for size in (8, 64):
        source, adapted = (
            [linear_gram(torch.tensor(part)) for part in np.split(each, 1024 // size)]
            for each in (x, y)
        )
        assert minibatch_cka(source, adapted) == pytest.approx(whole, abs=0.03)
        shuffled = adapted[1:] + adapted[:1]
        assert minibatch_cka(source, shuffled) == pytest.approx(0, abs=0.03)


def test_a_short_last_batch_is_left_out_and_a_dead_layer_gives_nan():
    x, y = (torch.tensor(each) for each in _features(10))
    whole = minibatch_cka([linear_gram(x)], [linear_gram(y)])
    with_rest = minibatch_cka(
        [linear_gram(x), linear_gram(x[:3])], [linear_gram(y), linear_gram(y[:3])]
    )
    assert with_rest == whole
    assert np.isnan(minibatch_cka([linear_gram(x)], [linear_gram(torch.ones(10, 3))]))


def test_wrong_arguments():
    gram = torch.eye(5)
    with pytest.raises(ValueError, match='at least 4 images, got 3'):
        unbiased_hsic(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match='same images, got shapes'):
        unbiased_hsic(gram, torch.eye(6))
    with pytest.raises(ValueError, match='as many batches'):
        minibatch_cka([gram], [gram, gram])
    with pytest.raises(ValueError, match='a batch of at least 4'):
        minibatch_cka([torch.eye(2)], [torch.eye(2)])
