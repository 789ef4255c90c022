import pytest
import torch

from tests.test_models.test_adaptation_classifier import VIT, _model
from tests.toy import target, toy_config, train
from tl_plugin.models.necks import BottleneckNeck
from tl_plugin.strategies import apply_strategies

NECK = dict(type='BottleneckNeck', out_channels=20)


def test_it_is_linear_norm_relu_of_what_is_pooled():
    neck = BottleneckNeck(6, 4)
    linear, norm, relu = neck.layers
    assert [type(layer).__name__ for layer in (linear, norm, relu)] == [
        'Linear',
        'BatchNorm1d',
        'ReLU',
    ]
    maps = torch.randn(3, 6, 5, 7)
    (found,) = neck((torch.zeros(3, 1), maps))
    hidden = maps.mean((2, 3)) @ linear.weight.T + linear.bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(found, hidden.clamp(min=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('feats', 'pooled'),
    [
        (torch.ones(2, 6), torch.ones(2, 6)),
        ([torch.randn(2, 9, 6), torch.ones(2, 6)], torch.ones(2, 6)),  # patches, class token
        (torch.arange(3.0).view(1, 3, 1).expand(2, 3, 6), torch.ones(2, 6)),  # tokens
    ],
)
def test_whatever_the_backbone_gives(feats, pooled):
    neck = BottleneckNeck(6, 4, norm=False)
    torch.testing.assert_close(neck((feats,))[0], neck(pooled)[0])


@pytest.mark.parametrize('changes', [{}, VIT])
def test_the_classifier_finds_both_widths(changes):
    kind = 'VisionTransformerClsHead' if changes else 'LinearClsHead'
    model = _model(**{**changes, 'neck': NECK, 'head': dict(type=kind, num_classes=3)})
    assert model.neck.layers[0].in_features == (32 if changes else 64)
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize('length', [dict(max_epochs=2), dict(max_iters=6)])
def test_overlays_compose_and_the_schedule_is_the_papers(length, tmp_path):
    cfg = toy_config(tmp_path, options=target(), **length)
    runner = train(apply_strategies(cfg, ['dann', 'bottleneck', 'dann_schedule']))
    assert runner.model.alignments['dann'].in_features == 256
    rates = runner.message_hub.log_scalars['train/lr'].data[0]
    # The rate at step p of the whole run, the paper's formula.
    expected = [0.01 / (1 + 10 * step / len(rates)) ** 0.75 for step in range(len(rates))]
    assert rates.tolist() == pytest.approx(expected, rel=1e-5)
    weights = runner.message_hub.log_scalars['train/dann_reversal_weight'].data[0]
    expected = [2 / (1 + 2.718281828 ** (-10 * s / len(rates))) - 1 for s in range(len(rates))]
    assert weights.tolist() == pytest.approx(expected, abs=1e-5)


def test_widths_that_cannot_be():
    for widths in ((None, 4), (6, 0)):
        with pytest.raises(ValueError, match='widths must be positive'):
            BottleneckNeck(*widths)
