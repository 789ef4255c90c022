"""Held-out images are looked at with the statistics of their own domain."""

import torch
from mmpretrain.datasets import PackInputs
from torch.utils.data import DataLoader

from tests.test_models.test_adaptation_classifier import _model
from tests.test_models.test_dsbn import BY_DOMAIN, _steps
from tests.toy import ToyDataset
from tl_plugin.engine.layers import LayerOutputs
from tl_plugin.evaluation.model_outputs import collect_outputs


def _loaders():
    pack = [PackInputs()]
    images = {'source': ToyDataset(pipeline=pack), 'target': ToyDataset(pipeline=pack, shift=0.5)}
    return {
        name: DataLoader(
            dataset,
            6,
            collate_fn=lambda items: dict(
                inputs=torch.stack([item['inputs'] for item in items]),
                data_samples=[item['data_samples'] for item in items],
            ),
        )
        for name, dataset in images.items()
    }


def test_each_domain_is_seen_as_it_is_predicted():
    model = _steps(_model(**BY_DOMAIN))
    seen = collect_outputs(model, _loaders(), LayerOutputs(model, None, 3))
    for name, loader in _loaders().items():
        model.eval().set_domain(name)
        with torch.no_grad():
            batches = [model.data_preprocessor(batch) for batch in loader]
            expected = torch.cat([model.extract_feat(b['inputs'])[-1] for b in batches])
        torch.testing.assert_close(seen[name].features, expected)
        model.set_domain('target')
    other = collect_outputs(model, {'target': _loaders()['source']}, LayerOutputs(model, None, 3))
    assert not torch.equal(other['target'].features, seen['source'].features)
