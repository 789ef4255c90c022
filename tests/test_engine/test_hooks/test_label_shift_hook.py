import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_models.test_adaptation_classifier import DANN, _inputs, _model, _samples
from tests.toy import target, toy_config, train
from tl_plugin.engine.hooks import LabelShiftHook
from tl_plugin.functional import black_box_shift
from tl_plugin.reliability.checkpoints import read_whole

#: Of ToyDataset's images, class 0 twice as often as the others.
UNEVEN = dict(type='ToyDataset', shift=0.3, size=24, indices=[*range(12), 12, 15, 18, 21])


def _config(work_dir, hook, validated=UNEVEN, **options):
    options = {
        **target(),
        'val_cfg': dict(type='DomainValLoop', dataloaders=dict(target=dict(dataset=validated))),
        'train_cfg.val_interval': 1,
        'optim_wrapper.optimizer.lr': 0.02,
        **options,
    }
    cfg = toy_config(work_dir, ['dann', 'label_shift_guard'], options, max_epochs=2)
    cfg.custom_hooks[-1].update(hook)
    return cfg


def _hook(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, LabelShiftHook))


@torch.no_grad()
def _predictions(runner, domain):
    loader = runner.val_loop.domains[domain][0]
    samples = [s for batch in loader for s in runner.model.eval().val_step(batch)]
    scores = torch.stack([sample.pred_score for sample in samples])
    return scores, torch.cat([sample.gt_label for sample in samples])


@pytest.mark.parametrize('method', ['bbse', 'em'])
def test_it_logs_the_estimate_of_the_validated_images(tmp_path, method):
    runner = train(_config(tmp_path, dict(method=method)))
    found = runner.message_hub.log_scalars['val/label_shift'].data[0]
    assert len(found) == 2
    if method == 'bbse':
        source, labels = _predictions(runner, 'source')
        scores, _ = _predictions(runner, 'target')
        there = black_box_shift(source, labels, scores).numpy()
        here = np.bincount(labels) / len(labels)
        assert found[-1] == pytest.approx(0.5 * np.abs(there - here).sum(), abs=1e-5)


def test_it_warns_where_the_shift_is_large(tmp_path):
    for threshold, times in ((0.0, 2), (1.0, 0)):
        folder = tmp_path / str(threshold)
        train(_config(folder, dict(threshold=threshold)))
        text = next(folder.glob('*/*.log')).read_text()
        assert text.count('LabelShiftHook: large label shift') == times


def test_target_labels_are_not_looked_at(tmp_path):
    shifts = []
    for labels in ('true', 'none'):
        cfg = _config(tmp_path / labels, {}, {**UNEVEN, 'labels': labels})
        cfg.val_cfg.evaluators = dict(target=dict(type='TargetValidator'))
        shifts.append(list(train(cfg).message_hub.log_scalars['val/label_shift'].data[0]))
    assert shifts[0] == shifts[1]


def test_weights_are_ratios_of_mean_one_and_reach_both_losses():
    hook = LabelShiftHook(reweight=True, max_weight=3.0)
    here, there = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.1, 0.1, 0.8])
    weights = hook._ratios(here, there)
    assert (weights * here).sum().item() == pytest.approx(1)
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.4, 3.0]) / 0.95)

    model = _model(alignments=DANN)
    model.set_class_weights(weights)
    inputs, samples = _inputs(8), _samples(8, num_target=3)
    losses = model.loss(inputs, samples)
    features = model.extract_feat(inputs)[-1]
    labels = torch.arange(5) % 3
    terms = torch.nn.functional.cross_entropy(model.head.fc(features[:5]), labels, reduction='none')
    torch.testing.assert_close(losses['loss_cls'], (terms * weights[labels]).mean())
    logits = model.alignments['dann'].classifier(features)[:, 0]
    softplus = torch.nn.functional.softplus
    domain = (weights[labels] * softplus(logits[:5])).mean() + softplus(-logits[5:]).mean()
    torch.testing.assert_close(losses['loss_dann'], 0.5 * domain)


def test_a_resumed_run_weighs_alike(tmp_path):
    """Also where the estimate is from a validation before the checkpoint's."""
    runs = []
    for name, parts in (('whole', [3]), ('parts', [2, 3])):
        for end in parts:
            cfg = _config(tmp_path / name, dict(reweight=True))
            cfg.model.alignments.dann.gamma = None
            cfg.train_cfg.max_epochs = end
            cfg.train_cfg.dynamic_intervals = [(0, 1), (3, 5)]  # after epoch 1, and the last
            cfg.param_scheduler = None
            if end != parts[0]:
                cfg.load_from, cfg.resume = str(tmp_path / name / 'epoch_2.pth'), True
            runner = train(cfg)
        runs.append(runner)
    states = [runner.model.state_dict() for runner in runs]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(*(_hook(runner)._weights for runner in runs))
    saved = read_whole(tmp_path / 'parts' / 'epoch_2.pth')
    assert 'label_shift_weights' in saved['hook_msgs']


def _on_rank(work_dir):
    runner = train(
        _config(
            work_dir,
            dict(reweight=True),
            launcher='pytorch',
            model_wrapper_cfg=CPU_MODEL_WRAPPER,
            **{'env_cfg.dist_cfg': dict(backend='gloo')},
        )
    )
    source = _hook(runner)._seen.of('source', runner.val_loop)
    return _hook(runner)._weights, source['gt_label'][:, 0].tolist()


def test_processes_agree_on_all_images(tmp_path):
    (one, labels), (other, same) = run_distributed(_on_rank, str(tmp_path))
    assert torch.equal(one, other)
    assert labels == same == [index % 3 for index in range(12)]


def test_what_it_refuses(tmp_path):
    cfg = toy_config(tmp_path, ['dann', 'label_shift_guard'], target())
    with pytest.raises(ValueError, match='needs a validation of the domains source, target'):
        train(cfg)
    for wrong, message in (
        (dict(method='x'), "bbse or em, got 'x'"),
        (dict(threshold=2), r'in \[0, 1\], got 2'),
        (dict(max_weight=0.5), 'at least 1, got 0.5'),
    ):
        with pytest.raises(ValueError, match=message):
            LabelShiftHook(**wrong)


@pytest.mark.parametrize(
    'kind, told', [('DeepCORALAlignment', True), ('DANAlignment', True), ('MCCAlignment', False)]
)
def test_alignments_that_take_no_weights_are_named_once(kind, told):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.handlers.append(handler)
    model = _model(alignments=dict(mine=dict(type=kind)))
    try:
        for weights in (None, torch.ones(3), torch.ones(3)):
            model.set_class_weights(weights)
    finally:
        logger.handlers.remove(handler)
    found = [line for line in lines if 'mine compares the domains without these weights' in line]
    assert len(found) == told


def test_heads_of_several_labels_are_refused(tmp_path):
    options = {
        'model.head': dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=3),
        'val_evaluator': dict(type='MultiLabelMetric'),
    }
    with pytest.raises(ValueError, match=r'LabelShiftHook .* MultiLabelLinearClsHead gives'):
        train(_config(tmp_path, {}, **options))
