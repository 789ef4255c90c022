import pytest
import torch
from mmpretrain.registry import MODELS

from tl_plugin.models.backbones import PooledTimmBackbone

timm = pytest.importorskip('timm')

# Maps (N, C, H, W) and (N, H, W, C), tokens, two class tokens, features pooled in the network, and
# those whose pooling timm doesn't turn off: crossvit, coat, efficientvit, inception_next.
MODELS_AND_SIZES = [
    ('resnet18', 64),
    ('convnext_atto', 64),
    ('vit_tiny_patch16_224', 224),
    ('deit_tiny_distilled_patch16_224', 224),
    ('swin_tiny_patch4_window7_224', 224),
    ('mixer_s32_224', 224),
    ('mobilenetv3_small_050', 64),
    ('efficientnet_lite0', 64),
    ('crossvit_tiny_240', 240),
    ('coat_tiny', 224),
    ('levit_128s', 224),
    ('efficientvit_b0', 64),
    ('inception_next_atto', 64),
    ('pit_ti_224', 224),
    ('poolformer_s12', 64),
    ('regnetx_002', 64),
    ('test_convnext', 64),
]


@pytest.mark.parametrize('name, size', MODELS_AND_SIZES)
def test_features_are_what_timm_gives_its_own_classifier(name, size):
    torch.manual_seed(0)
    backbone = PooledTimmBackbone(name).eval()
    reference = timm.create_model(name).eval()
    missing, unexpected = reference.load_state_dict(backbone.timm_model.state_dict(), strict=False)
    assert not unexpected
    assert {key.split('.')[0] for key in missing} <= {'fc', 'head', 'head_dist', 'classifier'}
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        (features,) = backbone(images)
        if hasattr(reference, 'forward_head'):
            expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
            torch.testing.assert_close(features, expected)
    assert features.shape == (2, backbone.num_features)


@pytest.mark.parametrize(
    'name, width', [('qwen3_vit_88m_enc', 1024), ('mobilenetv5_300m_enc', 2048)]
)
def test_features_that_timm_does_not_pool_are_averaged(name, width):
    if name not in timm.list_models():
        pytest.skip(f'timm {timm.__version__} has no {name}')
    with torch.device('meta'):
        assert PooledTimmBackbone(name).num_features == width


def test_pooling_averages_positions_and_leaves_out_class_tokens():
    backbone = PooledTimmBackbone('vit_tiny_patch16_224', img_size=32, depth=1)
    tokens = torch.rand(2, 5, 3)
    torch.testing.assert_close(backbone.pool(tokens), (tokens[:, 1:].sum(1) / 4))
    maps = torch.rand(2, 4, 5, 3)
    torch.testing.assert_close(backbone.pool(maps), maps.flatten(2).sum(2) / 15)
    backbone.timm_model.output_fmt = 'NHWC'
    torch.testing.assert_close(backbone.pool(maps), maps.flatten(1, 2).sum(1) / 20)


def test_arguments_reach_the_timm_model():
    backbone = PooledTimmBackbone(
        'vit_tiny_patch16_224',
        in_channels=1,
        img_size=32,
        depth=3,
        drop_path_rate=0.2,
        drop_rate=0.1,
    )
    assert len(backbone.timm_model.blocks) == 3
    assert backbone.timm_model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert backbone.timm_model.head_drop.p == pytest.approx(0.1)
    (features,) = backbone(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, 192)


def test_a_classifier_takes_its_width_from_the_backbone():
    model = MODELS.build(
        dict(
            type='mmpretrain.AdaptationClassifier',
            backbone=dict(type='mmpretrain.PooledTimmBackbone', model_name='mobilenetv3_small_050'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3),
        )
    )
    assert model.head.fc.in_features == 1024
    model(torch.rand(2, 3, 64, 64), mode='tensor')


def test_gradients_reach_every_weight_of_the_network():
    backbone = PooledTimmBackbone('convnext_atto')
    backbone(torch.rand(2, 3, 64, 64))[0].square().sum().backward()
    assert all(value.grad is not None for value in backbone.parameters())


def test_pretrained_goes_through_the_download_of_timm(monkeypatch):
    weights = timm.create_model('resnet18').state_dict()
    asked = []

    def download(name, *_, **__):
        asked.append(name)
        return {key: torch.full_like(value, 2) for key, value in weights.items()}

    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', download)
    backbone = PooledTimmBackbone('resnet18.a1_in1k', pretrained=True)
    assert not asked  # a trained checkpoint needs no network
    backbone.init_weights()
    assert asked
    assert all((value == 2).all() for value in backbone.parameters())


@pytest.mark.parametrize('options', [{}, dict(in_channels=1), dict(drop_path_rate=0.1)])
def test_pretrained_gives_what_timm_gives(options, tmp_path):
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'weights.pth')
    overlay = dict(pretrained_cfg_overlay=dict(file=str(tmp_path / 'weights.pth')))
    given = {{'in_channels': 'in_chans'}.get(key, key): value for key, value in options.items()}
    expected = timm.create_model('test_resnet', pretrained=True, num_classes=0, **given, **overlay)
    backbone = PooledTimmBackbone('test_resnet', pretrained=True, **options, **overlay)
    backbone.init_weights()
    for name, value in backbone.timm_model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


def test_a_folder_of_a_model_is_read(tmp_path):
    source = timm.create_model('test_resnet')
    timm.models.save_for_hf(source, tmp_path)
    backbone = PooledTimmBackbone(f'local-dir:{tmp_path}', pretrained=True)
    backbone.init_weights()
    for name, value in backbone.timm_model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


@pytest.mark.parametrize(
    'arguments, error, message',
    [
        (dict(model_name='resnt18'), ValueError, "no model 'resnt18'. Did you mean 'resnet18'"),
        (dict(model_name='resnet18', pretrained='resnet18.pth'), TypeError, 'checkpoint_path'),
        (dict(model_name='resnet18', checkpoint_path='gone.pth'), FileNotFoundError, 'gone.pth'),
        (
            dict(model_name='resnet18', checkpoint_path='gone.pth', pretrained=True),
            ValueError,
            'Choose one',
        ),
        (dict(model_name='resnet18', num_classes=10), ValueError, 'takes no num_classes'),
        (dict(model_name='resnet18', features_only=True), ValueError, 'use TIMMBackbone'),
    ],
)
def test_wrong_use_is_an_error_with_its_cure(arguments, error, message):
    with pytest.raises(error, match=message):
        PooledTimmBackbone(**arguments).init_weights()
