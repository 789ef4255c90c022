"""Against timm's own grouping, also where the layers are found without it."""

import pytest
import torch
from mmpretrain.registry import MODELS

from tl_plugin.engine.layers import LayerMap

timm = pytest.importorskip('timm')

SMALL = [
    'resnet18',
    'regnetx_002',
    'vgg11',
    'convnext_atto',
    'vit_tiny_patch16_224',
    'swin_tiny_patch4_window7_224',
    'densenet121',
    'mobilenetv3_small_050',
    'efficientnet_lite0',
    'mixer_s32_224',
    'levit_128s',
    'inception_v3',
    'hrnet_w18_small',
    'davit_tiny',
    'deit_tiny_distilled_patch16_224',
    'edgenext_xx_small',
]


def build(name, **kwargs):
    with torch.device('meta'):
        return timm.create_model(name, **kwargs)


def reference(model):
    return timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)


def inversions(expected, found):
    """Pairs of parameters that timm orders one way and we the other."""
    worst, pairs = None, []
    for name in sorted(expected, key=expected.get):
        if worst and expected[name] > expected[worst] and found.depth(name) < found.depth(worst):
            pairs.append((worst, name))
        if worst is None or found.depth(name) > found.depth(worst):
            worst = name
    return pairs


def check_whole(model, found):
    names = [name for name, _ in model.named_parameters()]
    listed = [name for depth in range(found.num_layers) for name in found.names(depth)]
    assert sorted(listed) == sorted(names)
    head = model.get_classifier()
    heads = head if isinstance(head, tuple) else (head,)
    inside = {id(p) for h in heads for p in h.parameters()}
    values = dict(model.named_parameters())
    assert {id(values[name]) for name in found.names(-1)} == inside


@pytest.mark.parametrize('name', SMALL)
def test_timm_models_keep_their_own_order(name):
    model = build(name)
    found = LayerMap.from_model(model)
    check_whole(model, found)
    assert inversions(reference(model), found) == []
    assert found.num_layers >= 5


@pytest.mark.parametrize('name', SMALL)
def test_order_of_execution_agrees_with_timm(name):
    model = build(name)
    expected = reference(model)
    model.group_matcher = None
    found = LayerMap.from_model(model)
    check_whole(model, found)
    assert inversions(expected, found) == []
    assert found.num_layers >= 0.7 * len(set(expected.values()))


def test_an_auxiliary_classifier_is_head():
    found = LayerMap.from_model(build('volo_d1_224'))
    assert found.modules(-1) == ['aux_head', 'head']


def test_inversions_are_noticed():
    model = build('resnet18')
    expected = reference(model)
    reverse = {name: -depth for name, depth in expected.items()}
    assert inversions(reverse, LayerMap.from_model(model))


@pytest.mark.parametrize('kind', ['TIMMBackbone', 'PooledTimmBackbone'])
def test_backbones_from_timm_have_layers(kind):
    with torch.device('meta'):
        backbone = MODELS.build(dict(type=kind, model_name='mobilenetv3_small_050'))
    model = torch.nn.ModuleDict(dict(backbone=backbone, head=torch.nn.Linear(4, 2)))
    found = LayerMap.from_model(model)
    expected = {
        f'backbone.timm_model.{name}': depth
        for name, depth in reference(backbone.timm_model).items()
    }
    assert inversions(expected, found) == []
    assert found.modules(-1) == ['head']
    assert found.modules(-2) == ['backbone.timm_model.conv_head']
    assert found.modules(0) == ['backbone.timm_model.conv_stem', 'backbone.timm_model.bn1']
