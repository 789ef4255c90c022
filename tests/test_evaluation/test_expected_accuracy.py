"""Expected accuracy: right where the shift is one of the meta-set's, and silent where it isn't."""

import pytest
import torch

from tl_plugin.evaluation import ExpectedAccuracy, Outputs, SourceReference, expected_accuracy
from tl_plugin.evaluation.source_reference import as_npz


def outputs(signal, noise=1.0, count=300, classes=5, seed=0):
    """Return those of an overconfident model, the more wrong the weaker the signal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    logits = torch.nn.functional.one_hot(labels, classes) * signal
    logits = logits + noise * torch.randn(count, classes, generator=generator)
    return Outputs((2 * logits).log_softmax(1), labels, torch.empty(count, 0))


@pytest.fixture(scope='module')
def reference():
    degraded = {str(step): outputs(4.0 - step / 2, seed=step) for step in range(8)}
    return SourceReference(outputs(4.0), degraded)


@pytest.mark.parametrize('signal', [3.2, 2.2, 1.2])
def test_accuracy_of_a_shift_like_those_of_the_meta_set(reference, signal):
    target = outputs(signal, count=1000, seed=77)
    found = expected_accuracy(reference, target.log_probabilities.exp())
    assert found.low <= target.accuracy() <= found.high
    assert abs(found.value - target.accuracy()) < 0.06
    assert found.images == 1000 and set(found.estimators) == set(found.raw)


def test_it_corrects_an_overconfident_model(reference):
    target = outputs(1.2, count=1000, seed=77)
    found = expected_accuracy(reference, target.log_probabilities.exp())
    off = {name: abs(value - target.accuracy()) for name, value in found.raw.items()}
    assert abs(found.value - target.accuracy()) < max(off.values())


def test_few_images_and_a_far_domain_have_a_reason_instead(reference):
    few = expected_accuracy(reference, outputs(4.0, count=29).log_probabilities.exp())
    assert few.value is None and '29 target images are too few' in few.in_words()
    near = SourceReference(reference.source, {'mild': outputs(3.8)})
    far = expected_accuracy(near, torch.full((200, 5), 0.2))
    assert far.value is None and far.low is None
    assert 'less sure of the target than of any degraded copy' in far.reason


def test_a_model_that_grows_surer_as_it_errs_has_no_estimate():
    degraded = {str(noise): outputs(3.0, noise, seed=noise) for noise in range(1, 9)}
    found = expected_accuracy(
        SourceReference(outputs(3.0), degraded), outputs(3.0, 5.0, seed=9).log_probabilities.exp()
    )
    assert found.value is None and 'probabilities say too little' in found.reason


def test_another_number_of_classes_is_refused(reference):
    with pytest.raises(ValueError, match='5 classes'):
        expected_accuracy(reference, torch.full((100, 4), 0.25))


def test_a_reference_is_kept_in_a_file(reference, tmp_path):
    import numpy as np

    (tmp_path / 'reference.npz').write_bytes(as_npz(reference.arrays()))
    with np.load(tmp_path / 'reference.npz') as arrays:
        again = SourceReference.from_arrays(arrays)
    assert list(again.degraded) == list(reference.degraded)
    probabilities = outputs(2.0, seed=5).log_probabilities.exp()
    found = expected_accuracy(again, probabilities)
    assert isinstance(found, ExpectedAccuracy)
    assert found == expected_accuracy(reference, probabilities)
