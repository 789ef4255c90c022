import logging

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmpretrain.models import TimmClassifier

from tests.toy import toy_config
from tl_plugin.models.backbones import protect_pretrained


def run(tmp_path, model):
    """Train one iteration with a learning rate of 0 on weights that initialisation would change."""
    cfg = toy_config(
        tmp_path,
        max_iters=1,
        options={'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.0)},
    )
    cfg.model = dict(data_preprocessor=cfg.data_preprocessor, **model)
    cfg.train_cfg.val_interval = 99
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    return [
        name
        for name, value in runner.model.named_parameters()
        if not torch.equal(value, before[name])
    ]


TIMM_CLASSIFIER = dict(type='TimmClassifier', model_name='test_resnet', num_classes=3)


def test_a_timm_classifier_keeps_its_weights(tmp_path):
    assert run(tmp_path, TIMM_CLASSIFIER) == []


def test_without_the_guard_it_loses_them(tmp_path, monkeypatch):
    """What the guard is for: should mmpretrain fix it, this test says so."""
    monkeypatch.delattr(TimmClassifier, 'init_weights')
    monkeypatch.setattr(TimmClassifier, 'init_weights', BaseModule.init_weights, raising=False)
    assert run(tmp_path, TIMM_CLASSIFIER)


def test_the_guard_says_so_once():
    model = TimmClassifier(model_name='test_resnet')
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.handlers.append(handler)
    try:
        assert protect_pretrained(model) == ['model']
        assert protect_pretrained(model) == []
    finally:
        logger.handlers.remove(handler)
    (line,) = lines
    assert 'model of TimmClassifier keeps the weights it was built with' in line


def test_a_pooled_backbone_is_left_as_timm_initialised_it(tmp_path):
    backbone = dict(type='PooledTimmBackbone', model_name='test_resnet')
    changed = run(
        tmp_path,
        dict(
            type='ImageClassifier',
            backbone=backbone,
            head=dict(type='LinearClsHead', num_classes=3, in_channels=96),
        ),
    )
    assert [name for name in changed if name.startswith('backbone')] == []


def test_modules_of_mmengine_still_initialise():
    class Own(BaseModule):
        def init_weights(self):
            self.done = True

    holder = BaseModule()
    holder.child = Own()
    assert protect_pretrained(holder) == []
    holder.init_weights()
    assert holder.child.done
