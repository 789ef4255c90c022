import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from tl_plugin.functional import sigmoid_ramp
from tl_plugin.models import AdaptationClassifier

CONFIG = dict(
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
)
DANN = dict(dann=dict(type='DANNHead', hidden_channels=[8]))


def _model(**changes):
    torch.manual_seed(0)
    return AdaptationClassifier(**copy.deepcopy({**CONFIG, **changes}))


def _inputs(size=5, seed=0):
    return torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _samples(size=5, num_target=0):
    samples = [DataSample(metainfo=dict(domain='source')) for _ in range(size - num_target)]
    for index, sample in enumerate(samples):
        sample.set_gt_label(index % 3)
    return samples + [DataSample(metainfo=dict(domain='target')) for _ in range(num_target)]


def test_without_alignments_it_is_an_image_classifier():
    ours, theirs = _model(), ImageClassifier(**copy.deepcopy(CONFIG))
    theirs.load_state_dict(ours.state_dict())  # strict: the same keys

    expected = theirs.loss(_inputs(), _samples())
    found = ours.loss(_inputs(), _samples())

    assert list(found) == ['loss_cls']
    assert torch.equal(found['loss_cls'], expected['loss'])
    scores = [
        torch.stack([s.pred_score for s in model.eval().predict(_inputs())])
        for model in (ours, theirs)
    ]
    assert torch.equal(*scores)


def test_one_step_equals_dann_written_by_hand():
    """Two explicit losses and gradients, no reversal layer: features descend cls - c * domain."""
    model, reference = _model(alignments=DANN), _model(alignments=DANN)
    reference.load_state_dict(model.state_dict())
    model.set_progress(0.4)
    inputs, samples = _inputs(8), _samples(8, num_target=3)
    losses = model.loss(inputs, samples)
    assert set(losses) == {'loss_cls', 'loss_dann', 'dann_accuracy', 'dann_reversal_weight'}
    model.parse_losses(losses)[0].backward()

    features = reference.extract_feat(inputs)[-1]
    logits = reference.head.fc(features[:5])
    cls = torch.nn.functional.cross_entropy(logits, torch.arange(5) % 3)
    domain_logits = reference.alignments['dann'].classifier(features)[:, 0]
    domain = 0.5 * (
        torch.nn.functional.softplus(domain_logits[:5]).mean()
        + torch.nn.functional.softplus(-domain_logits[5:]).mean()
    )
    reversal_weight = sigmoid_ramp(torch.tensor(0.4)).item()
    for name, parameter in model.named_parameters():
        other = dict(reference.named_parameters())[name]
        own = torch.autograd.grad(cls, other, retain_graph=True, allow_unused=True)[0]
        adversarial = torch.autograd.grad(domain, other, retain_graph=True, allow_unused=True)[0]
        sign = 1 if name.startswith('alignments') else -reversal_weight
        expected = sum(
            g
            for g in (own, sign * adversarial if adversarial is not None else None)
            if g is not None
        )
        torch.testing.assert_close(parameter.grad, expected, atol=2e-6, rtol=1e-3, msg=name)


def test_scrambled_target_labels_give_the_same_bits():
    weights = []
    for labels in ([0, 1, 2], [2, 2, 0], None):
        model = _model(alignments=DANN)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for step in range(3):
            model.set_progress(step / 3)
            target = [DataSample() for _ in range(3)]
            for sample, label in zip(target, labels or []):
                sample.set_gt_label(label)
            source = dict(inputs=_inputs(5, seed=step), data_samples=_samples(5))
            target = dict(inputs=_inputs(3, seed=9 + step), data_samples=target)
            model.train_step(dict(source=source, target=target), optimizer)
        weights.append(model.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(value, other[key]) for key, value in weights[0].items())


def test_alignments_without_target_images_are_an_error():
    with pytest.raises(ValueError, match=r'alignments \(dann\) need target images'):
        _model(alignments=DANN).loss(_inputs(), _samples())


def test_a_loss_weight_weighs():
    inputs, samples = _inputs(6), _samples(6, num_target=2)
    losses = [
        _model(alignments=dict(dann={**DANN['dann'], 'loss_weight': weight})).loss(inputs, samples)
        for weight in (1.0, 0.25)
    ]
    torch.testing.assert_close(losses[1]['loss_dann'], 0.25 * losses[0]['loss_dann'])
    torch.testing.assert_close(losses[1]['loss_cls'], losses[0]['loss_cls'])


@pytest.mark.parametrize('name', ['loss_dann', 'a.b', ''])
def test_impossible_names(name):
    with pytest.raises(ValueError, match='identifiers without "loss"'):
        _model(alignments={name: DANN['dann']})


def test_an_alignment_set_to_none_is_off():
    assert not _model(alignments=dict(dann=None)).alignments


def test_in_channels_is_found_and_a_wrong_one_named():
    head = dict(type='LinearClsHead', num_classes=3)
    assert _model(head=head).head.in_channels == 64
    with pytest.raises(ValueError, match=r'head.in_channels is 65, .* width 64'):
        _model(head={**head, 'in_channels': 65})


VIT = dict(
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=32,
        patch_size=8,
    ),
    neck=None,
)
WIDTHS = {
    'hidden layer': (
        {
            **VIT,
            'head': dict(
                type='VisionTransformerClsHead', num_classes=3, in_channels=32, hidden_dim=48
            ),
        },
        48,
    ),
    'no hidden layer': (
        {**VIT, 'head': dict(type='VisionTransformerClsHead', num_classes=3, in_channels=32)},
        32,
    ),
    'two tokens': (
        dict(
            backbone={**VIT['backbone'], 'type': 'DistilledVisionTransformer'},
            neck=None,
            head=dict(type='DeiTClsHead', num_classes=3, in_channels=32),
        ),
        64,
    ),
    'stacked head': (
        dict(
            head=dict(type='StackedLinearClsHead', num_classes=3, in_channels=64, mid_channels=[20])
        ),
        20,
    ),
    'logits for features': (
        dict(backbone=dict(type='LeNet5', num_classes=3), neck=None, head=dict(type='ClsHead')),
        3,
    ),
}


@pytest.mark.parametrize('case', WIDTHS)
def test_domain_head_takes_its_width_from_the_pre_logits(case):
    changes, width = WIDTHS[case]
    model = _model(**changes, alignments=DANN)
    assert model.alignments['dann'].in_features == width
    channels = 1 if case == 'logits for features' else 3
    losses = model.loss(torch.randn(5, channels, 32, 32), _samples(5, num_target=2))
    assert torch.isfinite(losses['loss_dann'])


def test_a_head_without_pre_logits_is_refused():
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match=r'pre_logits.*Bare'):
        _model(head=Bare(), alignments=DANN)


def test_other_data_preprocessors_are_refused_or_lifted():
    lifted = _model(data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'))
    assert type(lifted.data_preprocessor).__name__ == 'DomainDataPreprocessor'
    plain = MODELS.build(dict(type='ClsDataPreprocessor'))
    with pytest.raises(ValueError, match='needs a DomainDataPreprocessor, got ClsDataPreprocessor'):
        _model(data_preprocessor=plain)


@pytest.mark.parametrize('progress', [-0.1, 1.1])
def test_progress_out_of_range(progress):
    with pytest.raises(ValueError, match='in \\[0, 1\\]'):
        _model(alignments=DANN).set_progress(progress)


def test_features_may_be_what_goes_into_the_head():
    """The DANN paper's network: the domain classifier beside the label predictor."""
    model = _model(
        backbone=dict(type='DANNDigitsBackbone'),
        neck=None,
        head=dict(type='StackedLinearClsHead', num_classes=10, mid_channels=[100, 100]),
        feature_stage='neck',
        alignments=dict(dann=dict(type='DANNHead', hidden_channels=[100])),
    )
    sizes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert sizes['backbone.blocks.0.0.weight'] == (32, 3, 5, 5)
    assert sizes['backbone.blocks.1.0.weight'] == (48, 32, 5, 5)
    assert sizes['head.layers.0.fc.weight'] == (100, 768)
    assert sizes['head.layers.2.fc.weight'] == (10, 100)
    assert sizes['alignments.dann.classifier.0.weight'] == (100, 768)
    assert len(sizes) == 14
    inputs = torch.randn(5, 3, 28, 28)
    losses = model.loss(inputs, _samples(5, num_target=2))
    domain = model.alignments['dann'].classifier(model.backbone(inputs)[0])[:, 0]
    softplus = torch.nn.functional.softplus
    expected = 0.5 * (softplus(domain[:3]).mean() + softplus(-domain[3:]).mean())
    torch.testing.assert_close(losses['loss_dann'], expected)


def test_an_unknown_feature_stage():
    with pytest.raises(ValueError, match="neck, pre_logits, got 'backbone'"):
        _model(feature_stage='backbone')


def test_channels_last_changes_nothing_but_the_layout():
    plain, last = _model(alignments=DANN), _model(alignments=DANN, channels_last=True)
    last.load_state_dict(plain.state_dict())
    found = []
    for model in (plain, last):
        losses = model.loss(_inputs(), _samples(num_target=2))
        sum(value for key, value in losses.items() if 'loss' in key).backward()
        weight = model.backbone.conv1.weight
        found.append((losses['loss_cls'], losses['loss_dann'], weight.grad))
        # One stride apart: the channels of a pixel lie beside each other.
        assert (weight.stride(1) == 1) == (model is last)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('bottleneck', [False, True])
def test_losses_that_reach_no_trained_weight_are_named_once(bottleneck, monkeypatch):
    said = []
    where = 'tl_plugin.models.idle_losses.print_log'
    monkeypatch.setattr(where, lambda text, **_: said.append(text.partition(':')[0]))
    changes = dict(
        neck=dict(type='BottleneckNeck', out_channels=8),
        head=dict(type='LinearClsHead', num_classes=3),
    )
    model = _model(
        alignments=dict(
            dan=dict(type='DANAlignment'), mcc=dict(type='MCCAlignment'), **copy.deepcopy(DANN)
        ),
        regularizers=dict(bss=dict(type='BSSRegularizer')),
        **(changes if bottleneck else {}),
    )
    model.backbone.requires_grad_(False)
    losses = model.loss(_inputs(8), _samples(8, num_target=4))
    model.loss(_inputs(8), _samples(8, num_target=4))
    assert said == ([] if bottleneck else ['dan, bss, dann'])

    # They do nothing indeed: without the others, the head's gradient is that of all of them.
    gradients = []
    for names in (['cls', 'mcc'], ['cls', 'mcc', 'dan', 'dann', 'bss']):
        loss = sum(losses[f'loss_{name}'] for name in names)
        weights = [v for k, v in model.named_parameters() if k.startswith(('neck', 'head'))]
        gradients.append(torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True))
    same = all(torch.equal(one, other) for one, other in zip(*gradients))
    assert same != bottleneck
