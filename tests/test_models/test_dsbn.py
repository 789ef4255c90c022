"""Domain-specific batch norm."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from tests.toy import target, toy_config, train
from tl_plugin.models import AdaptationClassifier

from .test_adaptation_classifier import DANN, VIT, _inputs, _model, _samples

BY_DOMAIN = dict(domain_specific_bn=True, alignments=DANN)


def _steps(model, count=3):
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    for step in range(count):
        source = dict(inputs=_inputs(5, seed=step), data_samples=_samples(5))
        target = dict(inputs=3 * _inputs(4, seed=50 + step) + 1)
        model.train_step(dict(source=source, target=target), optimizer)
    return model


def test_each_domain_is_normalised_and_remembered_by_itself():
    """As two copies of a network that share weights and nothing else."""
    model = _model(**BY_DOMAIN)
    alone = {'source': copy.deepcopy(model), 'target': copy.deepcopy(model)}
    inputs = torch.cat([_inputs(5), 3 * _inputs(4, seed=9) + 1])
    samples = _samples(9, num_target=4)
    losses = model.loss(inputs, samples)

    feats = {
        name: super(AdaptationClassifier, alone[name]).extract_feat(part)[-1]
        for name, part in (('source', inputs[:5]), ('target', inputs[5:]))
    }
    expected = torch.nn.functional.cross_entropy(
        alone['source'].head.fc(feats['source']), torch.arange(5) % 3
    )
    torch.testing.assert_close(losses['loss_cls'], expected)
    logits = model.alignments['dann'].classifier(torch.cat(list(feats.values())))[:, 0]
    softplus = torch.nn.functional.softplus
    expected = 0.5 * (softplus(logits[:5]).mean() + softplus(-logits[5:]).mean())
    torch.testing.assert_close(losses['loss_dann'], expected)

    for domain in ('source', 'target'):
        model.set_domain(domain)
        for each in (model, alone[domain]):
            each.eval()
        found, other = (
            torch.stack([s.pred_score for s in each.predict(_inputs(3, seed=4))])
            for each in (model, alone[domain])
        )
        torch.testing.assert_close(found, other)


def test_prediction_is_the_targets_by_default():
    model = _steps(_model(**BY_DOMAIN)).eval()
    by_default = model(_inputs(3))
    model.set_domain('source')
    source = model(_inputs(3))
    model.set_domain('target')
    assert torch.equal(model(_inputs(3)), by_default) and not torch.equal(source, by_default)


def test_a_checkpoint_restores_both_and_a_source_checkpoint_starts_both():
    trained = _steps(_model(**BY_DOMAIN))
    other = _model(**BY_DOMAIN)
    other.load_state_dict(trained.state_dict())
    for domain in ('source', 'target'):
        for model in (trained, other):
            model.set_domain(domain)
            model.eval()
        assert torch.equal(trained(_inputs(3)), other(_inputs(3)))

    plain = _steps(_model(alignments=DANN)).eval()
    other.load_state_dict(plain.state_dict(), strict=False)
    for domain in ('source', 'target'):
        other.set_domain(domain)
        assert torch.equal(plain(_inputs(3)), other(_inputs(3)))


def test_without_source_images_the_source_keeps_what_training_began_with():
    model = _model(domain_specific_bn=True, alignments=dict(mcc=dict(type='MCCAlignment')))
    began = model.backbone.bn1.running_mean.clone()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    for step in range(2):
        model.train_step(dict(target=dict(inputs=3 * _inputs(4, seed=step) + 1)), optimizer)
    assert not torch.equal(model.backbone.bn1.running_mean, began)
    with model.statistics_of('source'):
        assert torch.equal(model.backbone.bn1.running_mean, began)


def test_a_validation_of_two_domains_takes_the_right_ones(tmp_path):
    domains = dict(dataloaders=dict(target=dict(dataset=dict(shift=0.5))))
    options = {
        **target(),
        'model.domain_specific_bn': True,
        'val_cfg': dict(type='DomainValLoop', **domains),
    }
    runner = train(toy_config(tmp_path, ['dann'], options, max_epochs=1))
    seen = {}
    predict = runner.model.predict

    def spy(inputs, *args, **kwargs):
        seen.setdefault(runner.val_loop.domain, runner.model._domain)
        return predict(inputs, *args, **kwargs)

    runner.model.predict = spy
    runner.val_loop.run()
    assert seen == dict(source='source', target='target') and runner.model._domain == 'target'


def test_a_resumed_run_ends_alike(tmp_path):
    options = {
        **target(),
        'model.domain_specific_bn': True,
        'model.alignments.dann.gamma': None,
    }
    states = []
    for name, parts in (('whole', [4]), ('parts', [2, 4])):
        for end in parts:
            resume = {}
            if end != parts[0]:
                checkpoint = str(tmp_path / name / f'iter_{parts[0]}.pth')
                resume = dict(load_from=checkpoint, resume=True)
            cfg = toy_config(tmp_path / name, ['dann'], {**options, **resume}, max_iters=end)
            runner = train(cfg)
        states.append(runner.model.state_dict())
    assert any(key.startswith('dsbn') for key in states[0])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r'needs batch norms .* VisionTransformer has none'):
        _model(
            **VIT,
            head=dict(type='VisionTransformerClsHead', num_classes=3),
            domain_specific_bn=True,
        )
