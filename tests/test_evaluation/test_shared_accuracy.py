"""Expected accuracy from how far models agree, against the formula written out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from tl_plugin.evaluation import shared_accuracy as module
from tl_plugin.evaluation.shared_accuracy import shared_accuracy

RESULTS = Path(__file__).resolve().parents[2] / 'tools/benchmarks/results/candidate_rungs.json'


def models(count, images=200):
    rng = np.random.default_rng(0)
    return {
        str(i): torch.from_numpy(rng.dirichlet(np.full(4, 0.3), images)).float()
        for i in range(count)
    }


def test_the_line_is_the_one_that_the_benchmark_found():
    found = json.loads(RESULTS.read_text())['expected']['shared']['line']
    assert found == dict(slope=module.SLOPE, shift=module.SHIFT, spread=module.SPREAD)


def test_it_is_read_off_the_line():
    given = models(4)
    values = {name: one.numpy().astype(float) for name, one in given.items()}
    for name, found in shared_accuracy(given).items():
        own = values[name].argmax(1)
        others = [own == other.argmax(1) for k, other in values.items() if k != name]
        centre = module.SHIFT + module.SLOPE * logit(np.mean(others))
        assert found.value == pytest.approx(expit(centre), abs=1e-5)
        deviation = np.hypot(module.SPREAD, (200 * found.value * (1 - found.value)) ** -0.5)
        assert logit([found.low, found.high]) == pytest.approx(
            [centre - 1.645 * deviation, centre + 1.645 * deviation], abs=1e-4
        )


def test_models_that_agree_on_everything_are_expected_to_be_right_but_never_surely():
    sure = torch.nn.functional.one_hot(torch.arange(100) % 4, 4).float()
    found = shared_accuracy(dict.fromkeys('abc', sure))
    assert all(
        0.95 < one.value < 1 and one.low < one.value < one.high < 1 for one in found.values()
    )


@pytest.mark.parametrize('count, images, why', [(2, 200, '3 models'), (3, 29, 'too few')])
def test_too_little_gives_a_reason(count, images, why):
    for found in shared_accuracy(models(count, images)).values():
        assert found.value is None and why in found.reason


def test_other_images_are_refused():
    with pytest.raises(ValueError, match='same images'):
        shared_accuracy({**models(2), 'other': torch.ones(3, 4) / 4})
