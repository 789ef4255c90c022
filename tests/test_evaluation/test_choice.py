"""The vote of models without labels, against the formulas written out."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from tl_plugin.evaluation.choice import vote


def model(signal, count=200, classes=4, seed=0, only=None):
    """Return a model that is right the more often the stronger the signal; or sure of one class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = torch.nn.functional.one_hot(labels, classes) * signal
    logits = logits + torch.randn(count, classes, generator=generator)
    if only is not None:
        logits[:, only] += 9.0
    return (2 * logits).log_softmax(1)


@pytest.fixture(scope='module')
def models():
    return {
        'source_only': model(0.5, seed=1),
        'good': model(3.0, seed=2),
        'better': model(4.0, seed=3),
        'collapsed': model(0.5, seed=4, only=0),
    }


def test_scores_are_mean_ranks_of_consensus_and_shared_confidence(models):
    values = {name: target.exp().double().numpy() for name, target in models.items()}
    together = sum(values.values()).argmax(1)
    consensus = [(own.argmax(1) == together).mean() for own in values.values()]
    shared = [
        np.mean([np.einsum('nk,nk->n', own, other).mean() for k, other in values.items() if k != n])
        for n, own in values.items()
    ]
    expected = [(rankdata(one) - 0.5) / 4 for one in (consensus, shared)]
    assert list(vote(models).scores.values()) == pytest.approx(list(np.mean(expected, axis=0)))


def test_how_surely_one_is_ahead(models):
    found = vote(models)
    assert max(found.scores, key=found.scores.get) in ('good', 'better')
    assert found.ahead('good', 'source_only') > 0.99
    assert found.ahead('source_only', 'good') < 0.01
    assert found.ahead('good', 'good') == 0.5
    same = vote({'source_only': models['good'], 'copy': models['good']})
    assert same.scores == {'source_only': 0.5, 'copy': 0.5}
    assert same.ahead('copy', 'source_only') == 0.5


def test_one_model_and_one_image_are_ranked_and_other_images_refused(models):
    assert vote({'source_only': model(1.0, count=1)}).scores == {'source_only': 0.5}
    with pytest.raises(ValueError, match="'good': 200, 'other': 7"):
        vote({'good': models['good'], 'other': model(1.0, count=7)})
    with pytest.raises(ValueError, match='no model'):
        vote({})
