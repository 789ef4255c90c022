"""Hooks that tell how good an epoch is on the target: by a risk, and by an oracle."""

import pytest
import torch

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import target, toy_config, train
from tl_plugin.engine.hooks import ValidationRiskHook
from tl_plugin.functional import control_variate_risk, density_ratio

RISK = 'target/label_free/dev_risk'
SCORE = 'target/label_free/information_maximization'


def _config(work_dir, hooks, strategies=('dann',), labels='true', max_epochs=3, **options):
    validated = dict(dataset=dict(shift=0.5, size=15, labels=labels))
    evaluators = [dict(type='TargetValidator')]
    if labels != 'none':
        evaluators.append(dict(type='Accuracy', topk=(1,)))
    val = dict(
        type='DomainValLoop', dataloaders=dict(target=validated), evaluators=dict(target=evaluators)
    )
    options = {'val_cfg': val, 'train_cfg.val_interval': 1, **options}
    if strategies:
        options.update(target())
    cfg = toy_config(work_dir, strategies, options, max_epochs=max_epochs)
    cfg.custom_hooks = hooks
    return cfg


def test_the_risk_is_that_of_the_validated_images_and_chooses(tmp_path):
    cfg = _config(
        tmp_path,
        [dict(type='ValidationRiskHook')],
        labels='none',
        **{
            'default_hooks.checkpoint.save_best': RISK,
            'default_hooks.checkpoint.rule': 'less',
        },
    )
    runner = train(cfg)
    history = runner.message_hub.log_scalars[f'val/{RISK}'].data[0]
    best = next(tmp_path.glob('best_*_epoch_*.pth'))
    assert best.stem.endswith(f'epoch_{int(history.argmin()) + 1}')

    seen = {}
    for name, (loader, _) in runner.val_loop.domains.items():
        images = torch.cat([torch.stack(list(batch['inputs'])) for batch in loader])
        seen[name] = runner.model.eval().extract_feat(
            runner.model.data_preprocessor(dict(inputs=images))['inputs']
        )
    wrong = runner.model.head(seen['source']).argmax(1) != torch.arange(12) % 3
    weights = density_ratio(seen['source'][-1], seen['target'][-1])
    expected = 100 * control_variate_risk(weights, wrong.float())
    assert history[-1] == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)
    assert 'features' not in runner.model.predict(images[:1].float())[0]


def _on_rank(work_dir):
    cfg = _config(
        work_dir,
        [dict(type='ValidationRiskHook')],
        launcher='pytorch',
        max_epochs=1,
        model_wrapper_cfg=CPU_MODEL_WRAPPER,
        **{'env_cfg.dist_cfg': dict(backend='gloo')},
    )
    runner = train(cfg)
    return float(runner.message_hub.log_scalars[f'val/{RISK}'].current())


def test_processes_find_one_risk(tmp_path):
    one, other = run_distributed(_on_rank, str(tmp_path))
    assert one == other


def test_what_they_refuse(tmp_path):
    cfg = _config(tmp_path, [dict(type='ValidationRiskHook')], ())
    with pytest.raises(ValueError, match=r"set model\.type='AdaptationClassifier'"):
        train(cfg)
    with pytest.raises(ValueError, match='decay must be > 0'):
        ValidationRiskHook(decay=0)
