import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import MODELS, TRANSFORMS

from tests.folders import WRAPPERS, folder
from tests.toy import target, toy_config, train
from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.engine.loops import add_strong_view
from tl_plugin.engine.loops.inherit import augment_further
from tl_plugin.models import Alignment


@TRANSFORMS.register_module(force=True)
class Brighten(BaseTransform):
    """Leaves a mark that the weak view hasn't."""

    def transform(self, results):
        results['img'] = np.full_like(results['img'], 250)
        return results


@MODELS.register_module(force=True)
class RecordViews(Alignment):
    needs_logits = True
    seen = []

    def forward(self, source, target):
        self.seen.append((source.logits, target.logits, target.strong_logits))
        return target.strong_logits.square().mean()


@pytest.mark.parametrize('collate', ['default_collate', 'pseudo_collate'])
def test_both_views_go_through_the_network_with_the_source(tmp_path, collate):
    RecordViews.seen.clear()
    options = {
        **target(size=6),
        'train_cfg.strong_view': [dict(type='Brighten')],
        'train_cfg.target_dataloader.batch_size': 3,
        'train_dataloader.collate_fn.type': collate,
        'model.alignments': dict(_delete_=True, views=dict(type='RecordViews')),
        'custom_hooks': [],  # no adversary to watch
    }
    cfg = toy_config(tmp_path, ['dann'], options, max_epochs=1)
    runner = train(cfg)
    assert len(RecordViews.seen) == 3
    for source, weak, strong in RecordViews.seen:
        assert (len(source), len(weak), len(strong)) == (4, 3, 3)
        # Every brightened image is the same image, the weak ones are not.
        assert torch.allclose(strong, strong[:1].expand_as(strong), atol=1e-5)
        assert not torch.allclose(weak, weak[:1].expand_as(weak), atol=1e-5)
    assert runner.message_hub.get_scalar('train/loss_views').current() > 0


def test_the_source_comes_in_a_strong_view_alone_where_asked(tmp_path):
    RecordViews.seen.clear()
    options = {
        **target(size=6),
        'train_cfg.strong_view': [dict(type='Brighten')],
        'train_cfg.strong_source': True,
        'model.alignments': dict(_delete_=True, views=dict(type='RecordViews')),
        'custom_hooks': [],
    }
    train(toy_config(tmp_path, ['dann'], options, max_epochs=1))
    for source, weak, _ in RecordViews.seen:
        assert torch.allclose(source, source[:1].expand_as(source), atol=1e-5)
        assert not torch.allclose(weak, weak[:1].expand_as(weak), atol=1e-5)
    with pytest.raises(ValueError, match=r'strong_source=True .* give these'):
        options.pop('train_cfg.strong_view')
        train(toy_config(tmp_path / 'none', ['dann'], options, max_epochs=1))


PACK = dict(type='PackInputs')


@pytest.mark.parametrize(
    ('pipeline', 'transforms', 'message'),
    [
        ([PACK], [], 'names no transforms'),
        ([], [dict(type='Brighten')], 'ends in PackInputs .* got none'),
        ([dict(type='Flip')], [dict(type='Brighten')], 'got Flip'),
        ([dict(type='MultiView'), PACK], [dict(type='Brighten')], 'got MultiView -> PackInputs'),
    ],
)
def test_what_cannot_have_two_views(pipeline, transforms, message):
    with pytest.raises(ValueError, match=message):
        add_strong_view(dict(dataset=dict(pipeline=pipeline)), transforms)


def test_a_source_that_cannot_be_augmented_further():
    with pytest.raises(ValueError, match=r'strong_source needs a source pipeline .* got Flip'):
        augment_further(dict(dataset=dict(pipeline=[dict(type='Flip')])), [dict(type='Brighten')])


def test_the_config_stays_as_it_is():
    loader = dict(batch_size=2, dataset=dict(type='A', pipeline=[dict(type='Flip'), PACK]))
    found = add_strong_view(loader, [dict(type='Brighten')])
    assert found['dataset']['pipeline'][0]['transforms'] == [
        [dict(type='Flip')],
        [dict(type='Flip'), dict(type='Brighten')],
    ]
    assert loader['dataset']['pipeline'] == [dict(type='Flip'), PACK]
    assert found['batch_size'] == 2


@pytest.mark.parametrize('kind', WRAPPERS)
def test_the_pipeline_inside_of_a_wrapper_gets_it(kind):
    config = dict(dataset=WRAPPERS[kind](folder('t')))
    views = add_strong_view(config, [dict(type='Brighten')])
    (inner,) = inner_configs(views['dataset'])
    kinds = [step['type'] for step in inner['pipeline']]
    assert kinds == ['LoadImageFromFile', 'MultiView', 'PackInputs']
    assert config == dict(dataset=WRAPPERS[kind](folder('t')))
    (inner,) = inner_configs(augment_further(config, [dict(type='Brighten')])['dataset'])
    kinds = [step['type'] for step in inner['pipeline']]
    assert kinds[0] == 'LoadImageFromFile' and kinds[-2:] == ['Brighten', 'PackInputs']
    assert config == dict(dataset=WRAPPERS[kind](folder('t')))
