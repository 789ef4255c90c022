"""Regularizers in the classifier, against losses written by hand."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from tests.distributed import run_distributed
from tests.toy import ToyDataset
from tl_plugin.datasets.image_numbers import ImageNumbers
from tl_plugin.models import AdaptationClassifier, regularizers
from tl_plugin.models.regularizers import Regularizer, SourceModel

CONFIG = dict(
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
)
KINDS = [
    name
    for name in regularizers.__all__
    if issubclass(getattr(regularizers, name), Regularizer) and name != 'Regularizer'
]
ALL = {name.lower(): dict(type=name) for name in KINDS}
COMPARING = [name for name in KINDS if getattr(regularizers, name).needs_source_model]


def _model(configs=None, moved=True, **changes):
    """A classifier that has moved from the source model it remembers."""
    torch.manual_seed(0)
    configs = copy.deepcopy(configs or {})
    model = AdaptationClassifier(**copy.deepcopy({**CONFIG, **changes}), regularizers=configs)
    model.regularizers.remember(model)
    _remember(model)
    if moved:
        with torch.no_grad():
            for value in model.parameters():
                value += 0.1 * torch.randn_like(value)
    return model.eval()


def _remember(model):
    """Begin again to remember images."""
    images = ToyDataset(size=12)
    for memory in model.memories().values():
        memory.remember(ImageNumbers(dict(source=images, target=images)))


def _inputs(size=6, seed=0):
    return torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _samples(size=6, num_target=0):
    samples = [
        DataSample(metainfo=dict(domain='source', sample_idx=n)) for n in range(size - num_target)
    ]
    for index, sample in enumerate(samples):
        sample.set_gt_label(index % 3)
    return samples + [
        DataSample(metainfo=dict(domain='target', sample_idx=n)) for n in range(num_target)
    ]


def _loss(model, inputs=None, num_target=0):
    inputs = _inputs() if inputs is None else inputs
    _remember(model)
    return model.loss(inputs, _samples(len(inputs), num_target))


@pytest.mark.parametrize('name', KINDS)
class TestEach:
    def test_builds_by_name_and_by_dotted_path(self, name):
        kind = getattr(regularizers, name)
        assert type(MODELS.build(dict(type=name))) is kind
        assert type(MODELS.build(dict(type=f'{kind.__module__}.{name}'))) is kind

    def test_wrong_arguments(self, name):
        with pytest.raises(ValueError, match='loss_weight must be >= 0, got -1'):
            MODELS.build(dict(type=name, loss_weight=-1))
        with pytest.raises(ValueError, match="source, target, both, got 'field'"):
            MODELS.build(dict(type=name, images='field'))

    def test_gradient_reaches_the_weights_and_a_loss_weight_weighs(self, name):
        losses = []
        for weight in (1.0, 0.25):
            model = _model({'it': dict(type=name, loss_weight=weight)})
            losses.append(_loss(model)['loss_it'])
            losses[-1].backward()
            assert model.backbone.conv1.weight.grad.abs().sum() > 0
        torch.testing.assert_close(losses[1], 0.25 * losses[0])

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision(self, name, dtype):
        model = _model({'it': dict(type=name)})
        expected = _loss(model)['loss_it']
        with torch.autocast('cpu', dtype=dtype):
            found = _loss(model)['loss_it']
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-3)


@pytest.mark.parametrize('name', COMPARING)
def test_nothing_to_keep_where_nothing_moved(name):
    options = dict(excluded_decay=0.0) if name == 'L2SPRegularizer' else {}
    found = _loss(_model({'it': dict(type=name, **options)}, moved=False))['loss_it']
    assert found.item() == pytest.approx(0, abs=1e-7)


def test_l2_sp_by_hand():
    model = _model(dict(l2_sp=dict(type='L2SPRegularizer', loss_weight=0.5, excluded_decay=0.3)))
    start = model.regularizers.source_state()
    pairs = [
        (start[name].numpy(), value.detach().numpy()) for name, value in model.named_parameters()
    ]
    names = [name for name, _ in model.named_parameters()]
    expected = sum(
        0.3 * (now**2).sum() if name.startswith('head.') else ((now - then) ** 2).sum()
        for name, (then, now) in zip(names, pairs)
    )
    assert _loss(model)['loss_l2_sp'].item() == pytest.approx(0.5 * 0.5 * expected, rel=1e-5)


def test_l2_sp_leaves_out_what_is_frozen_and_holds_what_is_not_excluded():
    model = _model(dict(l2_sp=dict(type='L2SPRegularizer', exclude=(), loss_weight=1.0)))
    model.backbone.requires_grad_(False)
    start = model.regularizers.source_state()
    expected = sum(
        ((value.detach() - start[f'head.{name}']) ** 2).sum()
        for name, value in model.head.named_parameters()
    )
    torch.testing.assert_close(_loss(model)['loss_l2_sp'], 0.5 * expected)
    model.requires_grad_(False)
    assert _loss(model)['loss_l2_sp'].item() == 0


def test_l2_sp_names_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match=r"'\^hed' matches no parameter"):
        _loss(_model(dict(l2_sp=dict(type='L2SPRegularizer', exclude='^hed'))))


def test_lwf_by_hand():
    model = _model(dict(lwf=dict(type='LwFRegularizer', temperature=3.0, loss_weight=2.0)))
    source = _model(moved=False)
    probabilities = []
    for each in (source, model):
        logits = each(_inputs()).detach().double().numpy()
        powers = np.exp(logits / 3)
        probabilities.append(powers / powers.sum(1, keepdims=True))
    before, after = probabilities
    expected = 2 * (before * np.log(before / after)).sum(1).mean()
    assert _loss(model)['loss_lwf'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('relative', [False, True])
def test_delta_by_hand(relative):
    """The default layers of a ResNet-18 are the ends of its stages."""
    model = _model(dict(delta=dict(type='DELTARegularizer', relative=relative)))
    source = _model(moved=False)
    chosen = ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    maps = []
    for each in (source, model):
        kept = []
        hooks = [
            each.backbone.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, kept=kept: kept.append(output)
            )
            for name in chosen
        ]
        each(_inputs())
        maps.append(kept)
        for hook in hooks:
            hook.remove()
    expected = sum(
        0.5
        * (now - then).square().sum()
        / (then.square().sum() if relative else 6 * then.shape[2] * then.shape[3])
        for then, now in zip(*maps)
    )
    names = [names[-1] for names in model.regularizers['delta'].outputs.modules.values()]
    assert names == [f'backbone.{name}' for name in chosen]
    torch.testing.assert_close(_loss(model)['loss_delta'], expected)


def test_each_sees_the_images_that_it_asks_for():
    expected = {
        images: _loss(_model(dict(lwf=dict(type='LwFRegularizer'))), part)['loss_lwf']
        for images, part in (
            ('source', _inputs()[:4]),
            ('target', _inputs()[4:]),
            ('both', _inputs()),
        )
    }
    configs = {images: dict(type='LwFRegularizer', images=images) for images in expected}
    found = _loss(_model(configs), num_target=2)
    for images, loss in expected.items():
        torch.testing.assert_close(found[f'loss_{images}'], loss)
    with pytest.raises(ValueError, match="images='target' needs target images"):
        _loss(_model(dict(lwf=dict(type='LwFRegularizer', images='target'))))


def test_the_source_model_runs_once_however_many_look_at_it(monkeypatch):
    model, passes = _model(ALL), []
    source = model.regularizers.source_model.classifier
    extract = source.extract_feat
    monkeypatch.setattr(source, 'extract_feat', lambda x: passes.append(len(x)) or extract(x))
    losses = _loss(model.train())
    assert {f'loss_{name}' for name in ALL} < set(losses) and passes == [6]
    assert not source.training


def test_the_source_model_is_out_of_reach():
    model, plain = _model(ALL), _model()
    for kind in ('named_parameters', 'named_buffers', 'named_modules'):
        names = {name for name, _ in getattr(model, kind)()}
        assert {n for n in names if 'source' in n} == set()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert copy.deepcopy(model).regularizers.source_model is model.regularizers.source_model


def test_it_stays_as_it_was_while_the_model_trains():
    model = _model(ALL, moved=False).train()
    before = model.regularizers.source_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        model.parse_losses(_loss(model, _inputs(seed=step)))[0].backward()
        optimizer.step()
    after = model.regularizers.source_state()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_recomputing_layer_of_the_copy_computes_with_the_copys_weights():
    model = _model(moved=False)
    block = model.backbone.layer1[0]
    original = block.forward
    block.forward = lambda inputs: original(inputs)  # as mmengine's activation checkpointing does
    expected = model(_inputs())
    source = SourceModel(model)
    torch.nn.init.zeros_(block.conv1.weight)
    torch.testing.assert_close(source.classifier(_inputs()), expected)
    assert not torch.allclose(model(_inputs()), expected)


@pytest.mark.parametrize('name', ['loss_it', 'cls', 'dann', 'a.b'])
def test_impossible_names(name):
    with pytest.raises(ValueError, match='no other loss has'):
        _model(
            {name: dict(type='BSSRegularizer')},
            alignments=dict(dann=dict(type='DANNHead', hidden_channels=[4])),
        )


def test_one_set_to_none_is_off():
    assert not _model(dict(l2_sp=None)).regularizers


def test_without_a_hook_the_error_names_it():
    model = AdaptationClassifier(**copy.deepcopy(CONFIG), regularizers=copy.deepcopy(ALL))
    with pytest.raises(ValueError, match="add dict\\(type='SourceModelHook'\\)"):
        _loss(model)


def _gradients(rows):
    """Summed weighted losses and their gradients on some rows of the joint batch."""
    torch.set_num_threads(1)
    # The running statistics are used, so that images don't depend on each other.
    model = _model(ALL)
    losses = model.loss(_inputs(8)[rows], _samples(8)[rows])
    total = sum(losses[f'loss_{name}'] for name in ALL)
    total.backward()
    return [total.detach()] + [value.grad for value in model.parameters()]


def _on_every_rank():
    found = _gradients(slice(dist.get_rank(), None, 2))
    for tensor in found:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return found


def test_two_processes_agree_with_one():
    for found in run_distributed(_on_every_rank):
        for one, other in zip(found, _gradients(slice(None))):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_source_model_has_no_teacher_and_keeps_what_the_source_was_normalised_by():
    taught = dict(type='PseudoLabelAlignment', teacher_momentum=0.9)
    model = _model(
        {'lwf': dict(type='LwFRegularizer')},
        alignments=dict(pseudo=taught),
        domain_specific_bn=True,
    )
    names = list(model.regularizers.source_state())
    assert not any(name.startswith(('teacher', 'alignments')) for name in names)
    assert any(name.startswith('dsbn') for name in names)


def test_maps_of_both_domains_are_compared_where_statistics_are_kept_by_domain():
    """As the regularizer computes it on each domain's images alone."""
    found = {}
    for images in ('source', 'target', 'both'):
        torch.manual_seed(1)
        model = _model(
            {'delta': dict(type='DELTARegularizer', relative=False, images=images)},
            alignments=dict(dan=dict(type='DANAlignment')),
            domain_specific_bn=True,
        )
        found[images] = _loss(model, _inputs(7), num_target=3)['loss_delta']
    torch.testing.assert_close(found['both'], (4 * found['source'] + 3 * found['target']) / 7)


@pytest.mark.parametrize('name', ['lwf', 'delta', 'bss'])
def test_images_that_training_has_not_are_named_with_a_cure_that_works(name):
    kind = next(kind for kind in KINDS if kind.lower().startswith(name))
    aligned = dict(alignments=dict(mcc=dict(type='MCCAlignment')))
    model = _model({name: dict(type=kind)}, **aligned)
    with pytest.raises(ValueError, match=f"model.regularizers.{name}.images='target'"):
        model.check_domains(['target'])
    _model({name: dict(type=kind, images='target')}, **aligned).check_domains(['target'])
    model = _model({name: dict(type=kind, images='target')})
    with pytest.raises(ValueError, match=f"model.regularizers.{name}.images='source'"):
        model.check_domains(['source'])
    _model({name: dict(type=kind, images='source')}).check_domains(['source'])
