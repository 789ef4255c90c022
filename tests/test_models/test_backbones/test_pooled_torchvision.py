import pytest
import torch
from torch import nn

from tl_plugin.engine.layers import LayerMap
from tl_plugin.models.backbones import PooledTorchvisionBackbone

torchvision = pytest.importorskip('torchvision')


@pytest.mark.parametrize(
    'name, size',
    [
        ('resnet18', 64),
        ('squeezenet1_1', 64),
        ('mobilenet_v3_small', 64),
        ('densenet121', 64),
        ('swin_t', 64),
        ('googlenet', 64),
        ('shufflenet_v2_x0_5', 64),
        ('efficientnet_b0', 64),
    ],
)
def test_features_are_what_torchvision_gives_its_own_classifier(name, size):
    torch.manual_seed(0)
    backbone = PooledTorchvisionBackbone(name).eval()
    reference = torchvision.models.get_model(name).eval()
    _, unexpected = reference.load_state_dict(backbone.torchvision_model.state_dict(), strict=False)
    assert not unexpected
    last = [m for m in reference.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    seen = []
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        reference(images)
        (features,) = backbone(images)
    expected = seen[0].relu() if name.startswith('squeezenet') else seen[0]
    expected = expected.flatten(2).mean(2) if expected.ndim == 4 else expected
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, backbone.num_features)


def test_models_with_auxiliary_classifiers_train():
    backbone = PooledTorchvisionBackbone('googlenet', init_weights=False).train()
    (features,) = backbone(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, 1024)
    assert not any('aux' in name for name, _ in backbone.named_parameters())


def test_its_layers():
    model = nn.ModuleDict(
        dict(backbone=PooledTorchvisionBackbone('resnet18'), head=nn.Linear(512, 3))
    )
    found = LayerMap.from_model(model)
    assert found.num_layers == 10
    assert found.modules(1) == ['backbone.torchvision_model.layer1.0']
    assert found.modules(-1) == ['head']


def test_weights_go_through_the_download_of_torchvision(monkeypatch):
    state = torchvision.models.resnet18().state_dict()
    twos = {key: torch.full_like(value, 2) for key, value in state.items()}
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights, 'get_state_dict', lambda *_, **__: twos
    )
    for weights in ('DEFAULT', 'IMAGENET1K_V1', 'ResNet18_Weights.IMAGENET1K_V1'):
        backbone = PooledTorchvisionBackbone('resnet18', weights=weights)
        assert not any((value == 2).all() for value in backbone.parameters())
        backbone.init_weights()
        assert all((value == 2).all() for value in backbone.parameters())


@pytest.mark.parametrize(
    'name, weights',
    [
        ('googlenet', 'DEFAULT'),
        ('inception_v3', 'DEFAULT'),
        pytest.param('maxvit_t', 'DEFAULT', marks=pytest.mark.slow),
        ('vit_b_16', 'IMAGENET1K_SWAG_E2E_V1'),
        ('vit_b_16', 'DEFAULT'),
        pytest.param('densenet121', 'DEFAULT', marks=pytest.mark.slow),
        ('swin_t', 'DEFAULT'),
        ('vgg11', 'DEFAULT'),
    ],
)
def test_a_network_is_built_as_its_weights_need_it(name, weights, monkeypatch):
    kind = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(kind, 'get_state_dict', lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, 'load_state_dict', lambda *_, **__: None)
    with torch.device('meta'):
        expected = torchvision.models.get_model(name, weights=weights)
        backbone = PooledTorchvisionBackbone(name, weights=weights)
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    for key, value in backbone.torchvision_model.state_dict().items():
        assert value.shape == shapes[key]
    for attribute in ('transform_input', 'image_size'):
        own = getattr(backbone.torchvision_model, attribute, None)
        assert own == getattr(expected, attribute, None)


@pytest.mark.parametrize('name', ['googlenet', 'inception_v3'])
def test_weights_with_auxiliary_classifiers_are_taken(name, monkeypatch):
    options = dict(init_weights=False)
    state = torchvision.models.get_model(name, **options, aux_logits=True).state_dict()
    twos = {key: torch.full_like(value, 2) for key, value in state.items()}
    kind = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(kind, 'get_state_dict', lambda *_, **__: twos)
    backbone = PooledTorchvisionBackbone(name, weights='DEFAULT')
    backbone.init_weights()
    assert all((value == 2).all() for value in backbone.parameters())


def test_local_weights_lose_their_classifiers(tmp_path):
    source = torchvision.models.googlenet(init_weights=False)
    path = str(tmp_path / 'googlenet.pth')
    torch.save(source.state_dict(), path)
    backbone = PooledTorchvisionBackbone('googlenet', checkpoint_path=path, init_weights=False)
    backbone.init_weights()
    expected = source.state_dict()
    assert all(
        torch.equal(value, expected[name])
        for name, value in backbone.torchvision_model.state_dict().items()
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(model_name='resnet19'), "no model 'resnet19'. Did you mean .*resnet18"),
        (dict(model_name='resnet18', weights='IMAGENET'), 'DEFAULT, IMAGENET1K_V1'),
        (dict(model_name='resnet18', weights='DEFAULT', checkpoint_path='x'), 'Choose one'),
        (dict(model_name='fcn_resnet50'), 'no model'),
        (dict(model_name='resnet18', num_classes=2), 'takes no num_classes'),
    ],
)
def test_wrong_use_is_an_error_with_its_cure(arguments, message):
    with pytest.raises(ValueError, match=message):
        PooledTorchvisionBackbone(**arguments)
