import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

from tl_plugin.engine.layers import LayerMap

from .networks import Block, DataDependent, Shuffled, Unrunnable, layer_names

HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=8)
GAP = dict(type='GlobalAveragePooling')


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def classifier(neck=GAP, **backbone):
    return MODELS.build(dict(type='ImageClassifier', backbone=backbone, neck=neck, head=HEAD))


def layers_of(model):
    found = LayerMap.from_model(model)
    return [found.names(depth) for depth in range(found.num_layers)]


VIT = dict(type='VisionTransformer', arch='deit-tiny')


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='ResNet', depth=50),
        dict(type='ResNet', depth=101),
        VIT,
        dict(type='SwinTransformer', arch='tiny'),
        dict(type='ConvNeXt', arch='atto'),
        dict(type='BEiTViT', arch='base'),
        dict(type='MixMIMTransformer', arch='base'),
    ],
    ids=lambda b: f'{b["type"]}',
)
def test_mmpretrain_keeps_its_own_depths(backbone):
    """Only what mmpretrain puts beside the head (the final norm) may lie elsewhere."""
    model = classifier(None if 'iT' in backbone['type'] else GAP, **backbone)
    found = LayerMap.from_model(model)
    theirs = {n: model.get_layer_depth(n) for n, _ in model.named_parameters()}
    inside = {n: depth for n, (depth, count) in theirs.items() if depth < count - 1}
    dense = {depth: rank for rank, depth in enumerate(sorted(set(inside.values())))}

    assert {n: found.depth(n) for n in inside} == {n: dense[d] for n, d in inside.items()}
    assert found.names(-1) == [n for n in theirs if n.startswith('head.')]
    assert all(
        found.depth(n) == found.num_layers - 2
        for n in theirs
        if n not in inside and not n.startswith('head.')
    )


@pytest.mark.parametrize(
    'changes, stem',
    [
        (dict(pre_norm=True), ['cls_token', 'pos_embed', 'pre_norm.weight', 'pre_norm.bias']),
        (dict(type='DistilledVisionTransformer'), ['cls_token', 'dist_token', 'pos_embed']),
    ],
)
def test_what_mmpretrain_puts_beside_the_head_but_runs_first_is_stem(changes, stem):
    found = LayerMap.from_model(classifier(None, **{**VIT, **changes}))
    assert {found.depth(f'backbone.{name}') for name in stem} == {0}
    assert found.depth('backbone.ln1.weight') == found.num_layers - 2


@pytest.mark.parametrize(
    'backbone, expected',
    [
        (dict(type='ResNet', depth=18), 10),
        (dict(type='RegNet', arch='regnetx_400mf'), 24),
        (dict(type='SwinTransformerV2', arch='tiny'), 17),
        (dict(type='MobileNetV3', arch='small'), 14),
        (dict(type='HRNet', arch='w18'), 19),
        (dict(type='VGG', depth=11), 9),
        (dict(type='HiViT', arch='tiny'), 18),
        (dict(type='LeNet5'), 4),
        (dict(type='InceptionV3', num_classes=3, aux_logits=False), 18),
    ],
    ids=lambda b: str(b),
)
def test_where_mmpretrain_knows_no_depth_blocks_are_found(backbone, expected):
    layers = layers_of(classifier(**backbone))
    assert len(layers) == expected
    assert all(layers)


def test_a_standalone_backbone_of_mmpretrain_has_layers():
    resnet = MODELS.build(dict(type='ResNet', depth=50))
    found, whole = (
        LayerMap.from_model(resnet),
        LayerMap.from_model(classifier(type='ResNet', depth=50)),
    )
    assert {n: found.depth(n) for n, _ in resnet.named_parameters()} == {
        n: whole.depth(f'backbone.{n}') for n, _ in resnet.named_parameters()
    }


def test_layers_follow_execution_not_registration():
    assert layers_of(Shuffled()) == layer_names(Shuffled(), Shuffled.LAYERS)


def test_a_network_that_looks_into_its_data_runs_for_real():
    assert layers_of(DataDependent()) == layer_names(
        DataDependent(), [['stem'], ['middle'], ['head']]
    )


def test_without_a_forward_pass_registration_decides():
    assert layers_of(Unrunnable()) == layer_names(Unrunnable(), [['middle'], ['stem'], ['head']])


def test_every_backbone_parameter_is_above_neck_head_and_discriminators():
    model = MODELS.build(
        dict(
            type='AdaptationClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
            neck=GAP,
            head=dict(type='LinearClsHead', num_classes=3),
            alignments=dict(dann=dict(type='DANNHead', hidden_channels=[4])),
        )
    )
    found = LayerMap.from_model(model)
    names = [name for name, _ in model.named_parameters()]
    assert found.names(-1) == [name for name in names if not name.startswith('backbone.')]
    assert any(name.startswith('alignments.') for name in found.names(-1))
    assert found.select(':-1') == [name for name in names if name.startswith('backbone.')]


def test_a_head_without_parameters_keeps_its_depth():
    model = nn.Module()
    model.backbone, model.head = nn.Sequential(nn.Linear(4, 4), Block(4), Block(4)), nn.ReLU()
    found = LayerMap.from_model(model)
    assert found.num_layers == 4
    assert found.names(-1) == []
    assert len(found.select(':-1')) == len(list(model.parameters()))
    with pytest.raises(ValueError, match='selects no parameter'):
        found.select(-1)


def test_classifiers_that_hold_a_whole_model():
    with torch.device('meta'):
        model = MODELS.build(dict(type='TimmClassifier', model_name='mobilenetv3_small_050'))
    found = LayerMap.from_model(model)
    assert found.modules(-1) == ['model.classifier']
    assert found.modules(-2) == ['model.conv_head']


class TransformersLike(nn.Module):
    """As in transformers: nested classes, outputs in an object, the size in a config."""

    class Output:
        def __init__(self, logits):
            self.logits = logits

    def __init__(self):
        super().__init__()
        self.config = type('Config', (), dict(image_size=20))()
        self.net = nn.Module()
        self.net.embeddings = nn.Conv2d(3, 4, 20)
        self.net.encoder = nn.Module()
        self.net.encoder.layer = nn.ModuleList([Block(4), Block(4)])
        self.classifier = nn.Linear(4, 3)

    def forward(self, pixel_values):
        x = self.net.embeddings(pixel_values)[:, :, 0, 0]
        for block in self.net.encoder.layer:
            x = block(x)
        return self.Output(self.classifier(x))


def test_a_model_like_those_of_transformers():
    model = TransformersLike()
    wrapper = nn.Sequential()
    wrapper.model = model
    expected = [
        ['net.embeddings'],
        ['net.encoder.layer.0'],
        ['net.encoder.layer.1'],
        ['classifier'],
    ]
    assert layers_of(model) == layer_names(model, expected)


def test_shared_parameters_have_one_depth_and_answer_to_both_names():
    model = nn.Sequential(nn.Linear(4, 4), Block(4), Block(4), nn.Linear(4, 4))
    model[3].weight = model[0].weight
    found = LayerMap.from_model(model)
    names = [name for depth in range(found.num_layers) for name in found.names(depth)]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert found.depth('3.weight') == found.depth('0.weight') == 0


def test_finding_layers_leaves_no_trace():
    model = Shuffled().train()
    seen = []
    model.norm.register_forward_hook(lambda *_: seen.append(1))
    model.blocks.eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random_state = torch.get_rng_state()
    values = [id(value) for value in model.parameters()]

    LayerMap.from_model(model)

    assert seen == []
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [id(value) for value in model.parameters()] == values
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_finding_layers_spoils_no_cache():
    """LeViT keeps what its attention computes in eval mode in a dict of its own."""
    model = MODELS.build(dict(type='TIMMBackbone', model_name='levit_conv_128s'))
    model.eval()
    model.timm_model.group_matcher = None
    images = torch.rand(1, 3, 224, 224)
    LayerMap.from_model(model)
    caches = [m.attention_bias_cache for m in model.modules() if hasattr(m, 'attention_bias_cache')]
    assert caches
    assert not any(caches)
    assert torch.isfinite(model(images)[0]).all()


@pytest.mark.parametrize(
    'ask, missing',
    [('blocks.0.frst.0.weight', 'blocks.0.first.0.weight'), ('nothing.like.it', 'begin with')],
)
def test_an_unknown_name_is_an_error_with_the_nearest_names(ask, missing):
    with pytest.raises(KeyError, match=missing):
        LayerMap.from_model(Shuffled()).depth(ask)


def test_modules_describe_a_layer_exactly():
    model = Shuffled()
    found = LayerMap.from_model(model)
    for depth in range(found.num_layers):
        (expanded,) = layer_names(model, [found.modules(depth)])
        assert expanded == found.names(depth)
    assert found.modules(1) == ['blocks.2', 'unused']
