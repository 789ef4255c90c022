"""Every pair of choices trains, resumes and interpolates, or is refused before the first step."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, product

import pytest
import torch
from covertable import make
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS

from tests.toy import fresh_name, loader
from tl_plugin.engine.interpolation import Interpolation
from tl_plugin.engine.interpolation_choice import Point
from tl_plugin.launch.runs import build_runner, prepare

ALIGNMENTS = {
    'none': None,
    'aad': dict(type='AaDAlignment'),
    'afn': dict(type='AFNAlignment'),
    'bsp': dict(type='BSPAlignment'),
    'cdan': dict(type='CDANHead', hidden_channels=[8]),
    'cdan_e': dict(type='CDANHead', hidden_channels=[8], entropy_conditioning=True),
    'centroid': dict(type='CentroidPseudoLabelAlignment'),
    'dan': dict(type='DANAlignment'),
    'dann': dict(type='DANNHead', hidden_channels=[8], norm='BN'),
    'deep_coral': dict(type='DeepCORALAlignment'),
    'entropy': dict(type='EntropyMinimization'),
    'infomax': dict(type='InformationMaximization'),
    'jan': dict(type='JANAlignment'),
    'masked': dict(type='MaskedConsistency', teacher_momentum=0.5),
    'mcc': dict(type='MCCAlignment'),
    'mdd': dict(type='MDDHead', hidden_channels=[8]),
    'pseudo_label': dict(type='PseudoLabelAlignment', ramp=False, threshold=0.0),
    'self_training': dict(type='SelfTrainingAlignment', teacher_momentum=0.5),
    'adamatch': dict(
        type='PseudoLabelAlignment',
        ramp=False,
        distribution_alignment=True,
        soft_labels=True,
        logit_interpolation=True,
        class_balanced=True,
    ),
}
REGULARIZERS = {
    'none': None,
    'bss': dict(type='BSSRegularizer'),
    'delta': dict(type='DELTARegularizer'),
    'l2_sp': dict(type='L2SPRegularizer'),
    'lwf': dict(type='LwFRegularizer'),
}
#: Two convolutions with batch norm and a bottleneck, or a transformer of two blocks.
CONVOLUTIONS = dict(
    backbone=dict(type='DANNDigitsBackbone', norm=True),
    neck=dict(type='BottleneckNeck', out_channels=12),
)
NETWORKS = dict(
    vit=dict(
        backbone=dict(
            type='VisionTransformer',
            img_size=28,
            patch_size=14,
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
        )
    )
)
HEADS = dict(
    linear=dict(type='LinearClsHead', num_classes=3),
    vit=dict(type='VisionTransformerClsHead', num_classes=3),
    stacked=dict(type='StackedLinearClsHead', num_classes=3, mid_channels=[10], norm_cfg=None),
    arcface=dict(type='ArcFaceClsHead', num_classes=3),
    several=dict(
        type='MultiLabelLinearClsHead',
        num_classes=3,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
#: Factor -> its values; the first one goes with all others.
FACTORS = {
    'loop': ['epoch', 'iteration', 'cached', 'source_free'],
    'alignment': [*ALIGNMENTS],
    'regularizer': [*REGULARIZERS],
    'dsbn': [False, True],
    'teacher': ['none', 'teacher'],
    'target': ['unlabelled', 'few', 'labelled'],
    'head': ['linear', 'vit', 'stacked', 'arcface', 'several'],
    'sampler': ['default', 'infinite'],
    'accumulation': [1, 3],
    'sharpness': [0.0, 0.1],
    'noise': ['none', 'robust_loss', 'early_learning', 'co_teaching', 'weighted_labels'],
}
NOISE_HOOKS = dict(
    early_learning=dict(type='ImageMemoryHook'),
    co_teaching=dict(type='SmallLossHook', forget_rate=0.5, ramp=0.5),
    weighted_labels=dict(type='LabelWeightsHook'),
)
TARGET_ALONE = ('aad', 'centroid', 'entropy', 'infomax', 'masked', 'mcc')
ON_LOGITS = (
    'aad',
    'adamatch',
    'cdan',
    'cdan_e',
    'centroid',
    'entropy',
    'infomax',
    'jan',
    'masked',
    'mcc',
    'mdd',
    'pseudo_label',
    'self_training',
)


def refusal(case: dict) -> str | None:
    """What the error of a pair that is refused says, by the rules alone."""
    aligned = case.get('alignment', 'none') != 'none' or case.get('teacher') == 'teacher'
    loop, head = case.get('loop'), case.get('head')
    if loop == 'epoch' and case.get('sampler') == 'infinite':
        return 'InfiniteSampler of train_dataloader never ends.*train by iteration'
    if loop == 'cached' and aligned:
        return "need target images and this batch has none: set train_cfg = dict.*'Adaptation"
    if loop == 'cached' and case.get('target') == 'few':
        return "labelled_target lists .* this training has no target: set train_cfg = dict.*'Adapt"
    if loop == 'cached' and case.get('regularizer') in ('delta', 'lwf'):
        return 'look at the images.*use feature_extraction'
    if loop == 'source_free' and case.get('alignment') == case.get('teacher') == 'none':
        return 'without a source learns from alignments, .* has none: use the overlay shot'
    if loop == 'source_free' and case.get('alignment') == 'self_training':
        return "has no pair of them: set train_cfg.type to 'AdaptationTrainLoop'"
    alone = ('none', *TARGET_ALONE, 'pseudo_label')
    if loop == 'source_free' and case.get('alignment', 'none') not in alone:
        return "compares source with target images, .* adapt with train_cfg.type='Adaptation"
    sharp = case.get('sharpness') and case.get('target') in ('unlabelled', 'labelled')
    if loop == 'source_free' and sharp:
        return 'flat classification loss .*, and training without a source has none: leave it out'
    if case.get('alignment') == 'adamatch' and loop != 'source_free':
        if head == 'arcface':
            return 'interpolated scores, and ArcFaceClsHead computes its loss otherwise: use Linear'
        if case.get('dsbn'):
            return 'has the latter in any case: set one of the two to False'
        if case.get('sharpness'):
            return 'each change the classification loss by a second pass: take one of the two'
    noise = case.get('noise')
    if loop == 'source_free' and noise in ('co_teaching', 'weighted_labels'):
        return 'source images, and training without a source has none: take it away'
    if head == 'several' and noise == 'robust_loss':
        return 'for images of several: leave out the strategy robust_loss'
    if head == 'arcface' and case.get('alignment') == 'self_training':
        return 'ArcFaceClsHead has none: use LinearClsHead'
    if head == 'vit' and case.get('dsbn'):
        return 'domain_specific_bn=True needs batch norms'
    on_logits = case.get('alignment') in ON_LOGITS or case.get('teacher') == 'teacher'
    on_logits |= noise == 'early_learning' or case.get('regularizer') == 'lwf'
    if head == 'several' and on_logits:
        return 'these losses need one class an image, .*MultiLabelLinearClsHead.*: use losses on'
    return None


def pairs_of(case: dict) -> set:
    return {((a, case[a]), (b, case[b])) for a, b in combinations(FACTORS, 2)}


def plan() -> tuple[list[dict], list[dict]]:
    """Cases that train and cover all pairs that can, and one case for each pair that can't."""
    ruled = [*combinations(FACTORS, 2), ('loop', 'alignment', 'teacher')]
    ruled.append(('loop', 'target', 'sharpness'))
    constraints = []
    for names in ruled:
        choices = list(product(*(FACTORS[name] for name in names)))
        allowed = {values for values in choices if refusal(dict(zip(names, values))) is None}
        # A rule that refuses nothing would be asked a million times.
        if len(allowed) < len(choices):
            agrees = lambda row, names=names, allowed=allowed: (  # noqa: E731
                tuple(row[name] for name in names) in allowed
            )
            constraints.append(dict(operator='fn', requires=list(names), evaluate=agrees))
    trained = [dict(row) for row in make(FACTORS, constraints=constraints)]
    covered = set().union(*map(pairs_of, trained))
    plain = {name: values[0] for name, values in FACTORS.items()}
    refused = [
        {**plain, a: one, b: other}
        for a, b in combinations(FACTORS, 2)
        for one in FACTORS[a]
        for other in FACTORS[b]
        if ((a, one), (b, other)) not in covered
    ]
    return trained, refused


TRAINED, REFUSED = plan()


def name_of(case: dict) -> str:
    return '-'.join(str(value) for value in case.values())


def make_config(case: dict, folder) -> Config:
    """The config of a case: a tiny network, two domains of 8 and 10 images, four iterations."""
    by_epoch = case['loop'] == 'epoch' or (
        case['loop'] != 'iteration' and case['sampler'] == 'default'
    )
    several = case['head'] == 'several'
    alignments = {name: cfg for name, cfg in [('it', ALIGNMENTS[case['alignment']])] if cfg}
    if case['teacher'] == 'teacher':
        taught = dict(ALIGNMENTS['pseudo_label'], teacher_momentum=0.5)
        alignments = {**alignments, 'taught': taught}
    regularizer = REGULARIZERS[case['regularizer']]
    if case['loop'] == 'source_free':
        for cfg in alignments.values():
            if cfg['type'] == 'PseudoLabelAlignment':
                cfg['relative'] = False
        regularizer = regularizer and dict(regularizer, images='target')
    regularizers = {'held': regularizer} if regularizer else {}
    head = dict(HEADS[case['head']])
    if case['noise'] == 'early_learning':
        images = 'target' if case['loop'] == 'source_free' else 'source'
        regularizers['early'] = dict(type='EarlyLearningRegularizer', images=images)
    if case['noise'] == 'robust_loss':
        head['loss'] = dict(type='RobustLoss')
    model = dict(
        type='AdaptationClassifier',
        alignments=alignments,
        regularizers=regularizers,
        domain_specific_bn=case['dsbn'],
        sharpness_rho=case['sharpness'],
        **NETWORKS.get(case['head'], CONVOLUTIONS),
        head=head,
        data_preprocessor=dict(
            type='DomainDataPreprocessor',
            mean=[60.0] * 3,
            std=[60.0] * 3,
            num_classes=3,
            labelled_target=[0, 1, 2] if case['target'] == 'few' else None,
        ),
    )
    images = dict(image_size=28, labels='several' if several else 'true')
    target = dict(
        images,
        size=10,
        shift=0.5,
        seed=1,
        labels='none' if case['target'] == 'unlabelled' else images['labels'],
    )
    source = loader(batch_size=4, size=8, **images)
    kind = 'InfiniteSampler' if case['sampler'] == 'infinite' else 'DefaultSampler'
    source['sampler'] = dict(type=kind, shuffle=True)
    length = dict(max_epochs=2) if by_epoch else dict(max_iters=4)
    if case['loop'] == 'source_free':
        source['dataset'].update(target)
        train_cfg = dict(type='SourceFreeTrainLoop')
    elif case['loop'] == 'cached':
        train_cfg = dict(type='CachedFeatureTrainLoop')
    else:
        train_cfg = dict(type='AdaptationTrainLoop', target_dataloader=dict(dataset=target))
    two_views = ('PseudoLabelAlignment', 'SelfTrainingAlignment')
    reads_two_views = any(cfg['type'] in two_views for cfg in alignments.values())
    if reads_two_views and case['loop'] != 'cached':
        train_cfg['strong_view'] = [dict(type='RandomFlip', prob=0.5)]
    hooks = []
    reads_whole_target = dict(aad='NeighbourMemoryHook', centroid='CentroidPseudoLabelHook')
    reads_whole_target['self_training'] = 'FrozenAlignmentHook'
    if case['alignment'] in reads_whole_target:
        hooks.append(dict(type=reads_whole_target[case['alignment']]))
    if case['regularizer'] != 'none':
        hooks.append(dict(type='SourceModelHook'))
    if case['loop'] == 'cached':
        hooks.append(dict(type='FreezeHook', layers=':-1'))
    if case['noise'] in NOISE_HOOKS:
        hooks.append(NOISE_HOOKS[case['noise']])
    if case['noise'] == 'weighted_labels':
        folder.mkdir(exist_ok=True)
        rows = ('file,given,right', 'train/0,red,0.1', 'train/2,blue,0.7')
        (folder / 'labels.csv').write_text('\n'.join(rows))
        hooks[-1] = dict(hooks[-1], file=str(folder / 'labels.csv'))
    labelled = loader(batch_size=8, shuffle=False, size=6, **images)
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            train_dataloader=source,
            train_cfg=dict(train_cfg, **length, val_interval=2),
            val_dataloader=labelled,
            val_cfg=dict(
                type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5)))
            ),
            val_evaluator=dict(type='MultiLabelMetric' if several else 'Accuracy'),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
                accumulative_counts=case['accumulation'],
            ),
            default_hooks=dict(
                timer=dict(type='IterTimerHook'),
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2
                ),
            ),
            custom_hooks=hooks,
            randomness=dict(seed=0),
            log_processor=dict(by_epoch=by_epoch),
            work_dir=str(folder),
            visualizer=None,
            log_level='WARNING',
            experiment_name=fresh_name('case'),
        ),
        format_python_code=False,
    )


def train(case: dict, folder, resume: str | None = None):
    cfg = make_config(case, folder)
    if case['loop'] == 'source_free' or case['alignment'] == 'self_training':
        folder.mkdir(exist_ok=True)
        cfg.load_from = str(folder / 'source_model.ckpt')
        plain = {**cfg.model.to_dict(), 'alignments': {}, 'regularizers': {}}
        torch.save(dict(state_dict=MODELS.build(plain).state_dict(), meta={}), cfg.load_from)
    runner = build_runner(prepare(cfg, resume=resume))
    runner.train()
    return runner


@pytest.mark.parametrize('case', TRAINED, ids=name_of)
def test_it_trains_resumes_and_interpolates(case, tmp_path):
    whole = train(case, tmp_path / 'whole')
    assert whole.iter == whole.max_iters
    metrics = whole.val_loop.evaluator.metrics
    assert metrics and 'train/loss' in whole.message_hub.log_scalars

    first, last = sorted(str(path) for path in (tmp_path / 'whole').glob('*.pth'))
    resumed = train(case, tmp_path / 'resumed', resume=first)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    changed = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    assert not changed
    start, end = states(first), states(last)
    assert any(
        not torch.equal(value, start[name]) for name, value in expected.items() if name in start
    )

    # An infinite sampler would give the same images again and again.
    between = Interpolation(resumed, start, end, statistics_images=16)
    statistics = ['interpolated', *(['estimated'] if between.statistics else [])]
    for kind in statistics:
        mixed = between.weights(Point(0.5, 0.0, 0.0, kind))
        name = next(name for name in mixed if name.startswith('head.') and mixed[name].dim() > 1)
        middle = 0.5 * (start[name] + end[name])
        torch.testing.assert_close(mixed[name], middle)
        assert all(torch.isfinite(v).all() for v in mixed.values() if v.is_floating_point())


def states(checkpoint: str) -> dict:
    return torch.load(checkpoint, map_location='cpu', weights_only=True)['state_dict']


def test_robust_loss_and_early_learning_are_refused_together(tmp_path):
    plain = {name: values[0] for name, values in FACTORS.items()}
    cfg = make_config({**plain, 'noise': 'early_learning'}, tmp_path)
    cfg.model.head.loss = dict(type='RobustLoss', kind='symmetric')
    with pytest.raises(ValueError, match=r'early weighs .* one of the strategies early_learning'):
        MODELS.build(cfg.model.to_dict())


@pytest.mark.parametrize('case', REFUSED, ids=name_of)
def test_it_is_refused_before_the_first_step(case, tmp_path, monkeypatch):
    wanted = refusal(case)
    assert wanted, 'this pair is covered by no case that trains'
    monkeypatch.setattr(OptimWrapper, 'update_params', lambda *_, **__: pytest.fail('a step'))
    with pytest.raises(ValueError) as raised:
        train(case, tmp_path)
    assert re.search(wanted, str(raised.value)), raised.value


def test_every_pair_is_covered(capsys):
    trained, refused = set().union(*map(pairs_of, TRAINED)), set()
    reasons: Counter = Counter()
    for case in REFUSED:
        refused |= pairs_of(case) - trained
        reasons[refusal(case)] += 1
    total = sum(len(FACTORS[a]) * len(FACTORS[b]) for a, b in combinations(FACTORS, 2))
    with capsys.disabled():
        print(
            f'\n{total} pairs of choices: {len(trained)} train in {len(TRAINED)} cases, '
            f'{total - len(trained)} are refused:'
        )
        for reason, count in reasons.items():
            print(f'  {count:3}  {reason}')
    assert trained | refused >= {
        ((a, one), (b, other))
        for a, b in combinations(FACTORS, 2)
        for one in FACTORS[a]
        for other in FACTORS[b]
    }
