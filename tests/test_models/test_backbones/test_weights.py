import pytest
import torch
from safetensors.torch import save_file

from tl_plugin.models.backbones import PooledTimmBackbone

timm = pytest.importorskip('timm')

NAME = 'test_resnet'


@pytest.fixture(scope='module')
def source():
    torch.manual_seed(1)
    return timm.create_model(NAME, num_classes=7).state_dict()


def load(path, name=NAME, **kwargs):
    torch.manual_seed(2)
    return PooledTimmBackbone(name, checkpoint_path=str(path), **kwargs).timm_model.state_dict()


def assert_loaded(found, source):
    assert found
    assert all(torch.equal(value, source[name]) for name, value in found.items())


def prefixed(source, prefix):
    return {f'{prefix}{name}': value for name, value in source.items()}


@pytest.mark.parametrize('wrap', [
    lambda s: s, lambda s: dict(state_dict=s), lambda s: dict(model=s, epoch=3),
    lambda s: dict(state_dict=prefixed(s, 'module.')),
    lambda s: dict(state_dict={'data_preprocessor.mean': torch.zeros(3),
                               'head.fc.weight': torch.zeros(2, 2),
                               **prefixed(s, 'backbone.timm_model.')}, meta=dict(epoch=1)),
    lambda s: dict(state_dict=prefixed(s, 'module.timm_model.'))])
def test_every_usual_layout_of_a_checkpoint_loads(wrap, source, tmp_path):
    torch.save(wrap(source), tmp_path / 'weights.pth')
    assert_loaded(load(tmp_path / 'weights.pth'), source)


@pytest.mark.parametrize('name', ['levit_384_s8', 'deit_tiny_distilled_patch16_224'])
def test_both_classifiers_of_a_distilled_model_are_dropped(name, tmp_path):
    source = timm.create_model(name).state_dict()
    assert any('head_dist' in key for key in source)
    torch.save(source, tmp_path / 'weights.pth')
    assert_loaded(load(tmp_path / 'weights.pth', name), source)


def test_safetensors_load(source, tmp_path):
    save_file(source, tmp_path / 'weights.safetensors')
    assert_loaded(load(tmp_path / 'weights.safetensors'), source)


def test_averaged_weights_come_first(source, tmp_path):
    other = {name: value + 1 for name, value in source.items()}
    torch.save(dict(state_dict=other, state_dict_ema=source), tmp_path / 'weights.pth')
    assert_loaded(load(tmp_path / 'weights.pth'), source)


def test_a_checkpoint_that_does_not_fit_names_what_is_wrong(source, tmp_path):
    wrong = dict(source)
    del wrong['bn1.weight']
    wrong['stranger.weight'] = torch.zeros(1)
    wrong['conv1.1.weight'] = wrong.get('conv1.1.weight', torch.zeros(1))
    first = next(name for name, value in source.items() if value.ndim == 4)
    wrong[first] = torch.zeros(1, 2, 3, 4)
    torch.save(wrong, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='does not fit') as error:
        load(tmp_path / 'weights.pth')
    text = str(error.value)
    assert '1 missing: bn1.weight' in text
    assert 'stranger.weight' in text
    assert f'{first} (expected {tuple(source[first].shape)}, got (1, 2, 3, 4))' in text


def test_weights_of_another_model_do_not_fit(source, tmp_path):
    torch.save(source, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'does not fit ConvNeXt: .* missing'):
        load(tmp_path / 'weights.pth', name='test_convnext')


def test_what_holds_no_weights_is_refused(tmp_path):
    torch.save(dict(epoch=1), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='holds no weights'):
        load(tmp_path / 'weights.pth')


class Malicious:

    def __reduce__(self):
        return print, ('executed', )


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save(dict(state_dict=dict(a=Malicious())), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'refused to read .*weights\.pth: it asks for'):
        load(tmp_path / 'weights.pth')
    assert 'executed' not in capsys.readouterr().out


def test_colour_weights_are_adapted_to_grey_images(source, tmp_path):
    torch.save(source, tmp_path / 'weights.pth')
    found = load(tmp_path / 'weights.pth', in_channels=1)
    first = next(name for name, value in source.items() if value.ndim == 4)
    torch.testing.assert_close(found[first], source[first].sum(1, keepdim=True))


def test_position_embeddings_follow_the_image_size(tmp_path):
    torch.save(timm.create_model('test_vit').state_dict(), tmp_path / 'weights.pth')
    found = load(tmp_path / 'weights.pth', name='test_vit', img_size=96)
    assert found['pos_embed'].shape[1] == (96 // 16)**2 + 1
