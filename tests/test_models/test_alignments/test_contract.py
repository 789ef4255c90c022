"""One contract for every registered alignment."""

import inspect
import math
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import tl_plugin.models.alignments as alignments
from tests.distributed import run_distributed
from tl_plugin.models.alignments import Alignment, DomainBatch
from tl_plugin.models.alignments.adversarial import AdversarialAlignment

from .batches import CLASSES, PARTS, build, domain, extras, parts

ALIGNMENTS = [
    name
    for name, kind in vars(alignments).items()
    if inspect.isclass(kind) and issubclass(kind, Alignment) and not inspect.isabstract(kind)
]
# Beside their defaults, what makes them compute something else.
VARIANTS = {
    'AaDAlignment': [dict(beta=2.0, num_neighbours=2)],
    'AFNAlignment': [dict(radius=25.0)],
    'CDANHead': [dict(entropy_conditioning=True), dict(max_channels=17, random_channels=8)],
    'DANAlignment': [dict(unbiased=False)],
    'DANNHead': [
        dict(spectral_norm=True),
        dict(gradient_penalty=0.1),
        dict(norm='BN'),
        dict(num_sources=2),
    ],
    'InformationMaximization': [dict(diversity_weight=0.5)],
    'JANAlignment': [dict(unbiased=False)],
    'PseudoLabelAlignment': [
        dict(relative=False, threshold=0.4),
        dict(ramp=False),
        dict(teacher_momentum=0.9),
        dict(distribution_alignment=True, soft_labels=True, class_balanced=True),
    ],
}
CASES = [
    pytest.param(name, kwargs, id='-'.join([name, *kwargs]))
    for name in ALIGNMENTS
    for kwargs in [{}, *VARIANTS.get(name, [])]
]
# By design: they look at the target alone.
TARGET_ONLY = {
    'AaDAlignment',
    'CentroidPseudoLabelAlignment',
    'EntropyMinimization',
    'InformationMaximization',
    'MaskedConsistency',
    'MCCAlignment',
    'PseudoLabelAlignment',
    'SelfTrainingAlignment',
}


def _gradient(batch):
    grads = [part.grad for part in parts(batch).values() if part.grad is not None]
    return sum(float(grad.abs().sum()) for grad in grads)


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_builds_by_name_and_by_dotted_path(name):
    kind = getattr(alignments, name)
    assert type(build(name)) is kind
    assert type(build(f'{kind.__module__}.{name}')) is kind


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match='loss_weight must be >= 0, got -1'):
        build(name, loss_weight=-1)


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_gamma_lets_the_pull_on_the_features_rise(name):
    """The loss itself, or of an adversary, which learns from the start, what is reversed of it."""
    for progress in (0.0, 0.1, 1.0):
        rise = 2 / (1 + math.exp(-5 * progress)) - 1
        alignment = build(name, progress, loss_weight=3.0, gamma=5.0)
        adversary = isinstance(alignment, AdversarialAlignment)
        assert float(alignment.current_weight()) == pytest.approx(3 * (1 if adversary else rise))
        if adversary:
            found = float(alignment.current_reversal_weight())
            assert found == pytest.approx(alignment.reversal_weight * rise)
    constant = build(name, 0.0, loss_weight=3.0, gamma=None)
    assert float(constant.current_weight()) == 3
    with pytest.raises(ValueError, match='gamma must be > 0 or None'):
        build(name, gamma=0.0)


@pytest.mark.parametrize(('name', 'kwargs'), CASES)
class TestContract:
    @pytest.mark.parametrize(('num_source', 'num_target'), [(5, 3), (3, 5), (4, 4)])
    def test_gradient_reaches_the_domains(self, name, kwargs, num_source, num_target):
        alignment = build(name, **kwargs)
        source, target = domain(num_source), domain(num_target, labels=False, seed=1)
        loss = alignment(source, target)
        assert loss.dim() == 0 and torch.isfinite(loss)
        loss.backward()
        assert _gradient(target) > 0
        assert (_gradient(source) > 0) is (name not in TARGET_ONLY)
        assert all(weight.grad is not None for weight in alignment.parameters())

    def test_needs_logits_says_what_is_read(self, name, kwargs):
        alignment = build(name, **kwargs)
        batches = [domain(4)._replace(logits=None), domain(4, seed=1)._replace(logits=None)]
        if not alignment.needs_logits:
            assert torch.isfinite(alignment(*batches))
        else:
            with pytest.raises((AttributeError, TypeError), match='NoneType'):
                alignment(*batches)

    def test_labels_change_nothing(self, name, kwargs):
        losses = set()
        for labels in (None, torch.full((3,), -1), torch.tensor([2, 0, 1])):
            target = domain(3, seed=1)._replace(labels=labels)
            losses.add(build(name, **kwargs)(domain(5)._replace(labels=None), target).item())
        assert len(losses) == 1

    @pytest.mark.parametrize(('num_source', 'num_target'), [(4, 1), (1, 4), (1, 1)])
    def test_one_image_in_a_domain(self, name, kwargs, num_source, num_target):
        alignment = build(name, **kwargs)
        source, target = domain(num_source), domain(num_target, labels=False, seed=1)
        loss = alignment(source, target)
        loss.backward()
        assert torch.isfinite(loss)
        for batch in (source, target):
            for part in parts(batch).values():
                assert part.grad is None or torch.isfinite(part.grad).all()

    def test_an_empty_domain_is_refused(self, name, kwargs):
        with pytest.raises(ValueError, match='0 target'):
            build(name, **kwargs)(domain(4), domain(0, labels=False))
        if name not in TARGET_ONLY:
            with pytest.raises(ValueError, match='0 source'):
                build(name, **kwargs)(domain(0), domain(4, labels=False))

    @pytest.mark.parametrize('features', ['equal', 'zero', 'huge'])
    def test_collapsed_and_huge_features_keep_it_finite(self, name, kwargs, features):
        scale = {'equal': 0.0, 'zero': 0.0, 'huge': 1e4}[features]
        offset = 3.0 if features == 'equal' else 0.0
        alignment, batches = build(name, **kwargs), []
        for batch in (domain(4, scale=scale), domain(3, seed=1, scale=scale)):
            moved = {key: part.detach() + offset for key, part in parts(batch).items()}
            moved = {key: part.requires_grad_() for key, part in moved.items()}
            batches.append(DomainBatch(**moved, **extras(batch)))
        loss = alignment(*batches)
        loss.backward()
        assert torch.isfinite(loss)
        for batch in batches:
            for part in parts(batch).values():
                assert part.grad is None or torch.isfinite(part.grad).all()

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision(self, name, kwargs, dtype):
        """Under autocast it computes what it computes in full precision from the same inputs."""
        results = []
        for autocast in (False, True):
            alignment = build(name, **kwargs).eval()  # no dropout
            batches = [domain(5, scale=300.0), domain(3, seed=1, scale=300.0)]
            halves = [{key: part.to(dtype) for key, part in parts(b).items()} for b in batches]
            if not autocast:
                halves = [{key: part.float() for key, part in h.items()} for h in halves]
            with torch.autocast('cpu', dtype=dtype, enabled=autocast):
                others = [extras(batch) for batch in batches]
                loss = alignment(*(DomainBatch(**h, **o) for h, o in zip(halves, others)))
            (1e-3 * loss).backward()  # half precision could not hold the gradient of a large loss
            results.append((loss, [batch.features.grad for batch in batches]))
        (expected, expected_grads), (found, found_grads) = results
        assert found.dtype == torch.float32
        # An adversary's own layers run in half precision, as they should.
        rough = any(True for _ in alignment.parameters())
        torch.testing.assert_close(found, expected, rtol=0.05 if rough else 1e-5, atol=1e-6)
        for grad, other in zip(found_grads, expected_grads):
            if grad is not None:
                assert torch.isfinite(grad).all()
                if not rough:
                    torch.testing.assert_close(grad, other, rtol=0.02, atol=1e-5)

    def test_nothing_logged_counts_as_a_loss(self, name, kwargs):
        alignment = build(name, **kwargs)
        alignment(domain(4), domain(4, seed=1))
        assert not any('loss' in key for key in alignment.diagnostics)
        assert not any(value.requires_grad for value in alignment.diagnostics.values())
        assert all(value.dim() == 0 for value in alignment.diagnostics.values())

    def test_a_checkpoint_restores_it(self, name, kwargs):
        alignment, other = build(name, **kwargs), build(name, **kwargs)
        assert not any('progress' in key for key in alignment.state_dict())
        for tensor in (*alignment.parameters(), *alignment.buffers()):
            if tensor.is_floating_point() and tensor.dim():
                tensor.data.mul_(1.5)
        other.load_state_dict(alignment.state_dict())
        losses = [each.eval()(domain(4), domain(3, seed=1)) for each in (alignment, other)]
        assert torch.equal(*losses)


# A dropout mask and a batch's statistics differ from process to process, alignment or not.
ONE_PROCESS_ONLY = {'norm'}


def _joint_batch():
    batches = domain(6), domain(4, seed=1)
    return [
        {**{key: part.detach() for key, part in parts(batch).items()}, **extras(batch)}
        for batch in batches
    ]


def _loss_and_gradients(name, kwargs, batch):
    alignment = build(name, **kwargs)
    for module in alignment.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    leaves = [{key: part.clone() for key, part in b.items()} for b in batch]
    for leaf in leaves:
        for key in PARTS:
            leaf[key].requires_grad_()
    loss = alignment(*(DomainBatch(**leaf) for leaf in leaves))
    loss.backward()
    inputs = [[leaf[key].grad for key in PARTS] for leaf in leaves]
    return loss.detach(), inputs, [weight.grad for weight in alignment.parameters()]


def _on_every_rank(cases):
    """Each case on this rank's half of the joint batch, averaged over ranks as DDP does."""
    results = []
    for name, kwargs in cases:
        rank = dist.get_rank()
        half = [{key: part[rank::2] for key, part in b.items()} for b in _joint_batch()]
        loss, inputs, weights = _loss_and_gradients(name, kwargs, half)
        for tensor in (loss, *weights):
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
        results.append((loss, inputs, weights))
    return results


def test_two_processes_agree_with_one():
    cases = [case.values for case in CASES if not ONE_PROCESS_ONLY & set(case.values[1])]
    assert {name for name, _ in cases} == set(ALIGNMENTS)
    ranks = run_distributed(_on_every_rank, cases)
    for index, (name, kwargs) in enumerate(cases):
        loss, inputs, weights = _loss_and_gradients(name, kwargs, _joint_batch())
        for rank, results in enumerate(ranks):
            found_loss, found_inputs, found_weights = results[index]
            message = f'{name} {kwargs} rank {rank}'
            close = dict(rtol=1e-4, atol=1e-6, msg=message)
            torch.testing.assert_close(found_loss, loss, **close)
            for found, expected in zip(found_weights, weights):
                torch.testing.assert_close(found, expected, **close)
            for found_parts, expected_parts in zip(found_inputs, inputs):
                for found, expected in zip(found_parts, expected_parts):
                    assert (found is None) == (expected is None), message
                    if found is not None:
                        torch.testing.assert_close(found / 2, expected[rank::2], **close)


def _classifier(name, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='AdaptationClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=CLASSES),
            alignments=dict(aligned=dict(type=name, **kwargs)),
        )
    )
    model.set_progress(0.5)
    numbers = Mock(of=lambda samples, domain: [sample.sample_idx for sample in samples])
    model.set_pseudo_labels(torch.arange(4) % CLASSES, numbers)
    model.set_neighbour_memory(
        dict(features=torch.eye(6, 32), probabilities=torch.full((6, CLASSES), 1 / CLASSES)),
        numbers,
    )
    return model


def _pair(labels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 5, 3, 16, 16, generator=generator)
    source = [DataSample().set_gt_label(index % CLASSES) for index in range(5)]
    target = [DataSample(metainfo=dict(sample_idx=index)) for index in range(4)]
    for sample, label in zip(target, labels):
        sample.set_gt_label(label)
    views = [images[1, :4], images[2, :4]]
    return dict(
        source=dict(inputs=images[0], data_samples=source),
        target=dict(inputs=views, data_samples=target),
    )


@pytest.mark.parametrize('name', ALIGNMENTS)
def test_in_a_classifier_its_gradient_reaches_the_backbone_and_no_target_label_does(name):
    grads = []
    for labels in ([], [0, 1, 2, 0], [2, 2, 1, 1]):
        model = _classifier(name)
        losses = model(**model.data_preprocessor(_pair(labels), True), mode='loss')
        losses['loss_aligned'].backward()
        grads.append([losses['loss_cls'].detach(), model.backbone.conv1.weight.grad])
    assert grads[0][1].abs().sum() > 0
    for other in grads[1:]:
        assert all(torch.equal(*pair) for pair in zip(grads[0], other))


def test_in_a_classifier_the_loss_rises():
    losses = []
    for gamma in (None, 5.0):
        model = _classifier('DANAlignment', loss_weight=3.0, gamma=gamma)
        model.set_progress(0.1)
        losses.append(model(**model.data_preprocessor(_pair([]), True), mode='loss'))
    constant, rising = (values['loss_aligned'].item() for values in losses)
    assert rising == pytest.approx(constant * (2 / (1 + math.exp(-0.5)) - 1), rel=1e-5)
