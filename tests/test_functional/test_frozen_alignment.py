"""Against scikit-learn, and against the twenty lines of it that the method replaces."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tl_plugin.functional import (
    Standardization,
    balance_classes,
    frozen_alignment,
    logistic_regression,
    propagate_labels,
    surest_of_each_class,
)

K = 3


def domains(seed=0, n=90, d=12):
    """Two domains of one structure; the target is scaled and moved, each feature otherwise."""
    random = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(K, d, generator=random)
    labels = torch.arange(2 * n) % K
    features = centres[labels] + torch.randn(2 * n, d, generator=random)
    scale = 0.2 + 3 * torch.rand(d, generator=random)
    moved = features[n:] * scale + 5 * torch.randn(d, generator=random)
    return features[:n], labels[:n], moved, labels[n:]


@pytest.mark.parametrize('inverse_penalty', [0.1, 10.0])
def test_logistic_regression_is_that_of_scikit_learn(inverse_penalty):
    features, labels, _, _ = domains()
    reference = LogisticRegression(C=inverse_penalty, fit_intercept=False, tol=1e-8, max_iter=999)
    reference.fit(features.double().numpy(), labels.numpy())
    found = logistic_regression(features.double(), labels, K, inverse_penalty)
    np.testing.assert_allclose(found.numpy(), reference.coef_, atol=2e-4)
    again = logistic_regression(features.double(), labels, K, inverse_penalty, start=-found)
    np.testing.assert_allclose(again.numpy(), reference.coef_, atol=2e-4)


def by_scikit_learn(source, labels, target, shares, c=10.0):
    def unit(x):
        z = (x - x.mean(0)) / np.sqrt(x.var(0) + 0.01 * x.var(0).mean())
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    xs, xt, ys = unit(source.double().numpy()), unit(target.double().numpy()), labels.numpy()
    model = LogisticRegression(C=c, fit_intercept=False, tol=1e-8, max_iter=999).fit(xs, ys)
    for share in shares:
        p = model.predict_proba(xt)
        guess = p.argmax(1)
        kept = []
        for k in range(K):
            own = np.flatnonzero(guess == k)
            kept += own[np.argsort(-p[own].max(1))][: int(np.ceil(share * len(own)))].tolist()
        x, y = np.concatenate([xs, xt[kept]]), np.concatenate([ys, guess[kept]])
        model = LogisticRegression(C=c, fit_intercept=False, tol=1e-8, max_iter=999).fit(x, y)
    return model.coef_, model.predict(xt)


@pytest.mark.parametrize('shares', [(), (0.3, 1.0)])
def test_it_is_the_same_method_in_scikit_learn(shares):
    source, labels, target, truth = domains()
    found = frozen_alignment(source.double(), labels, target.double(), K, shares)
    weight, predicted = by_scikit_learn(source, labels, target, shares)
    np.testing.assert_allclose(found.weight.numpy(), weight, atol=1e-3)
    assert (found.pseudo_labels.numpy() == predicted).all()
    assert len(found.changed) == len(shares)
    right = (found.pseudo_labels == truth).float().mean()
    plain = logistic_regression(source, labels, K)
    assert right > 0.95 > ((target @ plain.T).argmax(1) == truth).float().mean()


def test_a_feature_that_hardly_varies_gets_no_weight_of_hundreds():
    source, labels, target, _ = domains()
    source[:, 3], target[:, 3] = source[:, 3] / 1e3, target[:, 3] / 1e3
    weight, _ = frozen_alignment(source, labels, target, K).linear_layer(target)
    assert weight.abs()[:, 3].max() < 10 * weight.abs().max(0).values.median()


def test_the_folded_layer_gives_the_same_classes_on_raw_features():
    source, labels, target, _ = domains()
    source[:, 3] = target[:, 3] = 7.0  # the same in all images
    target[:, 4] = 2.0  # in those of one domain
    found = frozen_alignment(source, labels, target, K)
    weight, bias = found.linear_layer(target)
    assert torch.equal((target @ weight.T + bias).argmax(1), found.pseudo_labels)
    assert not weight[:, 3:5].any() and torch.isfinite(weight).all()


def test_classes_are_balanced_by_share_and_ties_keep_their_order():
    p = torch.tensor([[0.9, 0.1]] * 5 + [[0.2, 0.8], [0.4, 0.6]])
    assert surest_of_each_class(p, 0.4).tolist() == [0, 1, 5]
    assert surest_of_each_class(p, 0.01).tolist() == [0, 5]
    assert surest_of_each_class(p, 1.0).tolist() == [*range(7)]


def test_half_precision_is_widened():
    source, labels, target, _ = domains()
    found = frozen_alignment(source.half(), labels, target.half(), K, (1.0,))
    assert found.weight.dtype == torch.float32
    assert Standardization.of(target).mean.dtype == torch.float32


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (dict(target=torch.zeros(1, 12)), '1 target images'),
        (dict(labels=torch.full((90,), 3)), 'from 0 to 2, got 3 to 3'),
        (dict(labels=torch.full((90,), -1)), 'got -1'),
        (dict(shares=(0.5, 1.5)), r'in \(0, 1\]'),
        (dict(inverse_penalty=0.0), 'must be > 0'),
    ],
)
def test_what_is_out_of_range(change, said):
    source, labels, target, _ = domains()
    with pytest.raises(ValueError, match=said):
        frozen_alignment(
            **{**dict(source=source, labels=labels, target=target, num_classes=K), **change}
        )


def test_labels_spread_as_in_dense_numpy():
    random = np.random.default_rng(0)
    points = random.normal(size=(40, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    p = random.dirichlet(np.ones(K), 40)
    similarity = points @ points.T
    np.fill_diagonal(similarity, -np.inf)
    a = np.zeros((40, 40))
    for row, near in enumerate(np.argsort(-similarity, axis=1)[:, :4]):
        a[row, near] = np.maximum(similarity[row, near], 0) ** 3
    w = np.maximum(a, a.T)
    s = w / np.sqrt(np.outer(w.sum(0), w.sum(0)))
    f = np.linalg.solve(np.eye(40) - 0.5 * s, 0.5 * p)  # where the steps converge
    found = propagate_labels(torch.tensor(points), torch.tensor(p), 4, 0.5, 60).numpy()
    np.testing.assert_allclose(found, f / f.sum(1, keepdims=True), atol=1e-8)
    assert torch.equal(propagate_labels(torch.ones(1, 2), torch.eye(2)[:1]), torch.eye(2)[:1])


def test_balanced_classes_are_predicted_equally_often():
    p = torch.softmax(torch.randn(300, K) + torch.tensor([2.0, 0.0, -2.0]), 1)
    balanced = balance_classes(p, 100)
    torch.testing.assert_close(balanced.mean(0), torch.full((K,), 1 / K), atol=1e-3, rtol=0)
    torch.testing.assert_close(balanced.sum(1), torch.ones(300))
    odds = (balanced[:, 0] / balanced[:, 1]) / (p[:, 0] / p[:, 1])  # one factor for all images
    torch.testing.assert_close(odds, odds[:1].expand(300), rtol=1e-3, atol=0)


def test_neighbours_correct_what_the_classifier_got_wrong():
    """Clusters of the target that the source's classifier cuts through: its centres have moved."""
    random = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(K, 12, generator=random)
    labels = torch.arange(150) % K
    noise = torch.randn(2, 150, 12, generator=random)
    moved = centres + 3 * torch.randn(K, 12, generator=random)
    source, target = centres[labels] + noise[0], moved[labels] + noise[1]
    right = []
    for neighbours in (0, 5):
        found = frozen_alignment(source, labels, target, K, (), neighbours=neighbours)
        right.append((found.pseudo_labels == labels).float().mean())
    assert right[0] < 0.95 and right[1] > right[0] + 0.02 and len(found.changed) == 1
