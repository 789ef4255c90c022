import argparse
import collections
import datetime
from pathlib import Path

import numpy as np
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
    backbone = PooledTimmBackbone(name, checkpoint_path=str(path), **kwargs)
    backbone.init_weights()
    return backbone.timm_model.state_dict()


def assert_loaded(found, source):
    assert found
    assert all(torch.equal(value, source[name]) for name, value in found.items())


def prefixed(source, prefix):
    return {f'{prefix}{name}': value for name, value in source.items()}


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s),
        lambda s: dict(model=s, epoch=3),
        lambda s: dict(state_dict=prefixed(s, 'module.')),
        lambda s: dict(
            state_dict={
                'data_preprocessor.mean': torch.zeros(3),
                'head.fc.weight': torch.zeros(2, 2),
                **prefixed(s, 'backbone.timm_model.'),
            },
            meta=dict(epoch=1),
        ),
        lambda s: dict(state_dict=prefixed(s, 'module.timm_model.')),
    ],
)
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


def momentum_pair(source):
    """As MoCo keeps it: a query and a key encoder, with another head, and a queue."""
    strange = {'module.encoder_q.fc.0.weight': torch.zeros(2, 2), 'module.queue': torch.zeros(2)}
    key = prefixed({name: value + 1 for name, value in source.items()}, 'module.encoder_k.')
    return dict(
        arch='resnet', state_dict={**prefixed(source, 'module.encoder_q.'), **strange, **key}
    )


def raised(source):
    return {name: value + 1 for name, value in source.items()}


FOREIGN = {
    'timm': lambda s: dict(arch='x', state_dict=s, args=SETTINGS, metric=np.float64(0.5)),
    'torchvision': lambda s: dict(
        model=s,
        optimizer=dict(state={}),
        lr_scheduler={},
        epoch=1,
        args=SETTINGS,
        model_ema=dict(prefixed(s, 'module.'), n_averaged=torch.tensor(3)),
    ),
    'tutorial': lambda s: dict(epoch=1, model_state_dict=s, optimizer_state_dict={}, loss=0.1),
    'DINO': lambda s: dict(
        student=prefixed(raised(s), 'module.backbone.'),
        args=SETTINGS,
        epoch=1,
        teacher={**prefixed(s, 'backbone.'), 'head.mlp.0.bias': torch.ones(2)},
    ),
    'MoCo': momentum_pair,
    'SwAV': lambda s: {**prefixed(s, 'module.'), 'module.prototypes.weight': torch.ones(2, 2)},
    'Lightning': lambda s: {
        'state_dict': {**prefixed(s, 'model.'), 'loss.weight': torch.ones(2)},
        'hyper_parameters': dict(lr=0.1),
        'pytorch-lightning_version': '2.5',
        'callbacks': {'EarlyStopping': dict(best_score=torch.tensor(1.0))},
    },
    'averaged': lambda s: dict(model=raised(s), ema_state_dict=dict(s)),
    'of mmengine, averaged': lambda s: dict(
        meta=dict(mmengine_version='0.10.7'),
        state_dict=prefixed(s, 'backbone.timm_model.'),
        ema_state_dict=prefixed(raised(s), 'module.backbone.timm_model.'),
    ),
    'nested': lambda s: dict(net=dict(state_dict=s, step=torch.tensor(1))),
}
SETTINGS = argparse.Namespace(
    lr=0.1,
    output=Path('runs/1'),
    start=datetime.datetime(2024, 5, 1),
    sizes=[1, (2, 3)],
    device=torch.device('cpu'),
    extra=argparse.Namespace(a=None),
    meters=collections.defaultdict(list, loss=[1.0]),
)


@pytest.mark.parametrize('kind', FOREIGN)
def test_checkpoints_of_other_programs_load(kind, source, tmp_path):
    path = tmp_path / 'weights.pth.tar'
    torch.save(FOREIGN[kind](source), path)
    assert_loaded(load(path), source)


def test_the_log_says_what_was_taken_and_what_was_not(source, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'tl_plugin.models.backbones.weights.print_log', lambda text, **_: said.append(text)
    )
    torch.save(FOREIGN['DINO'](source), tmp_path / 'dino.pth')
    load(tmp_path / 'dino.pth')
    assert 'under teacher, whose names begin with backbone.;' in said[0]
    assert 'under student' in said[0]
    torch.save(momentum_pair(source), tmp_path / 'moco.pth')
    load(tmp_path / 'moco.pth')
    assert 'begin with module.encoder_q.;' in said[1] and 'under module.encoder_k.' in said[1]
    torch.save(FOREIGN['SwAV'](source), tmp_path / 'swav.pth')
    load(tmp_path / 'swav.pth')
    assert 'not used: prototypes.weight' in said[-1]


def test_a_deeper_network_of_the_same_names_is_refused(source, tmp_path):
    extra = {'layer1.9.conv1.weight': torch.zeros(1)}
    torch.save({**source, **extra}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r'1 unexpected: layer1\.9\.conv1\.weight'):
        load(tmp_path / 'weights.pth')


class Malicious:
    def __reduce__(self):
        return print, ('executed',)


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
    assert found['pos_embed'].shape[1] == (96 // 16) ** 2 + 1
