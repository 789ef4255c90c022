import numpy as np
import pytest
import torch

from tl_plugin.functional import centroid_pseudo_labels


def _reference(features, probabilities, rounds):
    """Equations 5 to 7 as loops."""
    points = np.c_[features, np.ones(len(features))]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    classes = probabilities.shape[1]
    shares, labels = probabilities, None
    for turn in range(rounds + 1):
        guesses = probabilities.argmax(axis=1) if turn == 0 else labels
        found = []
        for point in points:
            distances = []
            for k in range(classes):
                centroid = sum(s[k] * p for s, p in zip(shares, points))
                near = point @ centroid / max(np.linalg.norm(centroid), 1e-12)
                distances.append(1 - near if k in guesses else np.inf)
            found.append(int(np.argmin(distances)))
        labels = np.array(found)
        shares = np.eye(classes)[labels]
    return labels


@pytest.mark.parametrize('rounds', [0, 1, 3])
@pytest.mark.parametrize('seed', range(3))
def test_labels_are_those_of_the_paper_written_as_loops(rounds, seed):
    random = np.random.default_rng(seed)
    centres = random.normal(0, 2, (4, 5))
    labels = random.integers(0, 3, 40)  # the last class has no image
    features = centres[labels] + random.normal(0, 1.5, (40, 5))
    logits = 2 * np.eye(4)[labels] + random.normal(0, 1, (40, 4)) - [0, 0, 0, 9]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = centroid_pseudo_labels(torch.tensor(features), torch.tensor(probabilities), rounds)
    np.testing.assert_array_equal(found.numpy(), _reference(features, probabilities, rounds))
    assert 3 not in found


def test_nothing_or_unequal_rows_are_refused():
    with pytest.raises(ValueError, match='got 0 and 0 rows'):
        centroid_pseudo_labels(torch.zeros(0, 2), torch.zeros(0, 3))
    with pytest.raises(ValueError, match='got 2 and 3 rows'):
        centroid_pseudo_labels(torch.zeros(2, 2), torch.zeros(3, 3))
