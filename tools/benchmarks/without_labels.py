"""Choosing and judging models without target labels, over many models of eight pairs of domains.

Part of recommendations.py, which runs it by --no-target-labels. So that there are many models of
many pairs, networks aren't trained: an EfficientNet-Lite0 with ImageNet's weights gives features of
small images once, and each strategy learns a last layer, or a layer before it, on them. Features,
rungs and judgement are stages of their own; what is finished is kept. Target labels are in files
that the judgement alone reads.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import choices
import harness  # noqa: F401  (puts the package on the path)
import numpy as np
import torch
import torch.nn.functional as F
from pairs import IMAGES, PAIRS, load_domain

from tl_plugin.datasets.degrade_quality import CORRUPTIONS, degrade_image
from tl_plugin.evaluation.source_reference import as_npz, degradations
from tl_plugin.functional import (
    class_confusion,
    coral_loss,
    entropy_loss,
    frozen_alignment,
    gradient_reversal,
    marginal_entropy,
    maximum_mean_discrepancy,
    pseudo_label_loss,
)
from tl_plugin.reliability.files import write_whole

DEGRADED, MIXED_PAIRS = 100, 120
#: Rungs that standardize each domain by itself.
BY_DOMAIN = ('adabn',)
#: Images of a domain that are trained on, validated on and tested on.
SPLITS = dict(train=slice(0, 320), val=slice(320, 440), test=slice(440, 600))
MIX = 0.55


def compute_features(domains: list[str], data: Path, checkpoint: Path, work_dir: Path) -> None:
    """Write the features of each domain, and its labels into another file."""
    import timm

    model = timm.create_model('tf_efficientnet_lite0', num_classes=0)
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    model.load_state_dict(state, strict=False)
    model.eval()
    for name in domains:
        path = work_dir / 'features' / f'{name}.npz'
        if path.is_file():
            continue
        images, labels = load_domain(name, data)
        write_whole(work_dir / 'labels' / f'{name}.npz', as_npz(dict(labels=labels)))
        write_whole(path, as_npz(_features_of(model, images, name)))
        print(f'features of {name}', flush=True)


def _features_of(model: torch.nn.Module, images: np.ndarray, name: str) -> dict[str, np.ndarray]:
    found = {'clean': _run(model, images)}
    val = images[SPLITS['val']]
    first, second = mixed_pairs()
    mixed = MIX * val[first].astype(np.float32) + (1 - MIX) * val[second].astype(np.float32)
    found['mixed'] = _run(model, np.rint(mixed).astype(np.uint8))
    if name in {source for source, _ in PAIRS.values()}:
        sets = {key: (val[:DEGRADED], severities) for key, severities in degradations().items()}
        for index, (key, (clean, severities)) in enumerate(sets.items()):
            rng = np.random.default_rng((0, index))
            found[f'degraded.{key}'] = _run(
                model, np.stack([degrade_image(image, severities, rng) for image in clean])
            )
        rng = np.random.default_rng(3)
        found['train_degraded'] = _run(
            model, np.stack([degrade_image(i, _some(rng), rng) for i in images[SPLITS['train']]])
        )
    return found


def _some(rng: np.random.Generator) -> dict[str, float]:
    names = rng.permutation(list(CORRUPTIONS))[: rng.integers(1, 4)]
    return {str(name): float(rng.uniform(1, 4)) for name in names}


def mixed_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return which validation images are mixed with which."""
    rng = np.random.default_rng(4)
    count = SPLITS['val'].stop - SPLITS['val'].start
    first, second = rng.integers(count, size=(2, MIXED_PAIRS))
    return first, np.where(first == second, (second + 1) % count, second)


@torch.no_grad()
def _run(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    batches = [
        torch.from_numpy(images[at : at + 25]).permute(0, 3, 1, 2).float() / 127.5 - 1
        for at in range(0, len(images), 25)
    ]
    return torch.cat([model(batch) for batch in batches]).numpy().astype(np.float32)


class Domains:
    """A pair's features on their joint principal components, at unit length, and source labels.

    Args:
        pair: Of PAIRS.
        work_dir: Holds the features.
        by_domain: Whether each domain's features are standardized by its own mean and deviation,
            as batch statistics of its own do, and not by the source's.
    """

    def __init__(self, pair: str, work_dir: Path, by_domain: bool = False) -> None:
        names = PAIRS[pair]
        source, target = (np.load(work_dir / 'features' / f'{name}.npz') for name in names)
        labels = np.load(work_dir / 'labels' / f'{names[0]}.npz')['labels']
        self.labels = torch.from_numpy(labels)
        self.classes = int(labels.max()) + 1
        clean = {'source': source['clean'], 'target': target['clean']}
        of = {name: clean[name if by_domain else 'source'][SPLITS['train']] for name in clean}
        moments = {name: (rows.mean(0), rows.std(0) + 1e-3) for name, rows in of.items()}

        def standardize(features: np.ndarray, domain: str) -> np.ndarray:
            return (features - moments[domain][0]) / moments[domain][1]

        joint = np.concatenate([standardize(clean[n], n)[SPLITS['train']] for n in clean])
        axes = np.linalg.svd(joint, full_matrices=False)[2][:COMPONENTS]

        def project(features: np.ndarray, domain: str) -> torch.Tensor:
            rows = torch.from_numpy(standardize(features, domain) @ axes.T).float()
            return LENGTH * F.normalize(rows, dim=1)

        self.source, self.target = (project(clean[name], name) for name in clean)
        self.mixed = project(target['mixed'], 'target')
        self.train_degraded = project(source['train_degraded'], 'source')
        self.degraded = {
            key.partition('.')[2]: project(source[key], 'source')
            for key in source.files
            if key.startswith('degraded.')
        }

    def split(self, domain: str, split: str) -> torch.Tensor:
        """Return the features of a split."""
        return getattr(self, domain)[SPLITS[split]]


COMPONENTS, STEPS, HIDDEN, LENGTH = 128, 200, 64, 6.0


def _network(domains: Domains, linear: bool = True) -> torch.nn.Sequential:
    torch.manual_seed(0)
    last = torch.nn.Linear(COMPONENTS if linear else HIDDEN, domains.classes)
    if linear:
        return torch.nn.Sequential(torch.nn.Identity(), last)
    layer = torch.nn.Sequential(torch.nn.Linear(COMPONENTS, HIDDEN), torch.nn.ReLU())
    return torch.nn.Sequential(layer, last)


def _train(network, domains, extra=None, degraded=False, supervised=True, steps=STEPS, more=()):
    """Train on the source's labels and on a loss of source and target features and logits."""
    x, y = domains.split('source', 'train'), domains.labels[SPLITS['train']]
    if degraded:
        x, y = torch.cat([x, domains.train_degraded]), torch.cat([y, y])
    target = domains.split('target', 'train')
    optimizer = torch.optim.AdamW([*network.parameters(), *more], lr=0.005, weight_decay=0.05)
    for step in range(steps):
        source_features, target_features = network[0](x), network[0](target)
        logits = network[1](source_features)
        loss = F.cross_entropy(logits, y) if supervised else 0.0
        if extra is not None:
            weight = min(2 * step / steps, 1.0)
            found = extra(source_features, target_features, logits, network[1](target_features))
            loss = loss + weight * found
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda features, domain='target': network(features).detach()


def _information(source, target, logits, target_logits):
    return entropy_loss(target_logits) - marginal_entropy(target_logits)


def _adversary():
    torch.manual_seed(1)
    head = torch.nn.Sequential(torch.nn.Linear(HIDDEN, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def loss(source, target, logits, target_logits):
        both = head(gradient_reversal(torch.cat([source, target]), 0.3))[:, 0]
        truth = torch.cat([torch.ones(len(source)), torch.zeros(len(target))])
        return F.binary_cross_entropy_with_logits(both, truth)

    return loss, head


def _dann(domains):
    loss, head = _adversary()
    return _train(_network(domains, linear=False), domains, loss, more=head.parameters())


def _frozen_alignment(domains):
    source, target = (domains.split(name, 'train') for name in ('source', 'target'))
    labels = domains.labels[SPLITS['train']]
    found = frozen_alignment(source, labels, target, domains.classes)
    weight, bias = found.linear_layer(target)
    moments = [(rows.mean(0), rows.std(0)) for rows in (source, target)]

    def predict(features, domain='target'):
        if domain == 'source':
            features = (features - moments[0][0]) / moments[0][1] * moments[1][1] + moments[1][0]
        return features @ weight.T + bias

    return predict


def _shot(domains):
    network = _network(domains)
    _train(network, domains)
    return _train(network, domains, _information, supervised=False, steps=STEPS // 3)


def _self_training(domains):
    network = _network(domains)
    _train(network, domains)

    def loss(source, target, logits, target_logits):
        return pseudo_label_loss(target_logits.detach(), target_logits, 0.8)[0]

    return _train(network, domains, loss, degraded=True)


RUNGS = {
    'source_only': lambda d: _train(_network(d), d),
    'adabn': lambda d: _train(_network(d), d),
    'frozen_alignment': _frozen_alignment,
    'quality_matched': lambda d: _train(_network(d), d, degraded=True),
    'source_only, two layers': lambda d: _train(_network(d, False), d),
    'shot': _shot,
    'deep_coral': lambda d: _train(_network(d, False), d, lambda s, t, *_: 10 * coral_loss(s, t)),
    'dan': lambda d: _train(_network(d, False), d, lambda s, t, *_: maximum_mean_discrepancy(s, t)),
    'dann': _dann,
    'mcc': lambda d: _train(_network(d), d, lambda s, t, own, theirs: class_confusion(theirs)),
    'entropy_minimization': lambda d: _train(
        _network(d), d, lambda s, t, own, theirs: entropy_loss(theirs)
    ),
    'information_maximization': lambda d: _train(_network(d), d, _information),
    'self_training': _self_training,
}


def climb(pair: str, work_dir: Path) -> None:
    """Train every rung of a pair on features; write its outputs, without target labels."""
    kept = {}
    for name, train in RUNGS.items():
        path = work_dir / 'outputs' / _file_name(pair) / f'{_file_name(name)}.npz'
        if path.is_file():
            continue
        by_domain = name in BY_DOMAIN
        if by_domain not in kept:
            kept[by_domain] = Domains(pair, work_dir, by_domain)
        domains = kept[by_domain]
        predict = train(domains)
        val, empty = SPLITS['val'], np.empty((DEGRADED, 0), dtype=np.float32)
        labels = domains.labels[val].numpy()
        arrays = {
            'source.features': domains.split('source', 'val').numpy(),
            'source.labels': labels,
        }
        arrays['source.log_probabilities'] = _log(predict(domains.split('source', 'val'), 'source'))
        for key, features in domains.degraded.items():
            arrays[f'degraded.{key}.log_probabilities'] = _log(predict(features, 'source'))
            arrays[f'degraded.{key}.labels'] = labels[:DEGRADED]
            arrays[f'degraded.{key}.features'] = empty
        arrays['target.log_probabilities'] = _log(predict(domains.split('target', 'val')))
        arrays['target.features'] = domains.split('target', 'val').numpy()
        arrays['mixed.log_probabilities'] = _log(predict(domains.mixed))
        arrays['test.probabilities'] = predict(domains.split('target', 'test')).softmax(1).numpy()
        write_whole(path, as_npz(arrays))


def _log(logits: torch.Tensor) -> np.ndarray:
    return logits.log_softmax(1).clamp(min=-27).numpy()


def _file_name(text: str) -> str:
    return ''.join(c if c.isalnum() else '_' for c in text)


def measure(work_dir: Path, data: Path, checkpoint: Path, pairs: list[str]) -> dict:
    """Compute features, train every rung of the pairs, and judge choice and expected accuracy.

    Args:
        work_dir: Of all that is kept.
        data: Holds pacs128 and mnist.
        checkpoint: Of EfficientNet-Lite0.
        pairs: Of PAIRS.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in PAIRS[pair]))
    compute_features(names, data, checkpoint, work_dir)
    scores, accuracy, models = {}, {}, {}
    for pair in pairs:
        climb(pair, work_dir)
        folder = work_dir / 'outputs' / _file_name(pair)
        models[pair] = {name: choices.Model(folder / f'{_file_name(name)}.npz') for name in RUNGS}
        scores[pair] = choices.scores_of(models[pair], mixed_pairs())
        # Only here, where everything is chosen, are target labels read.
        labels = np.load(work_dir / 'labels' / f'{PAIRS[pair][1]}.npz')['labels'][SPLITS['test']]
        accuracy[pair] = {
            name: round(100 * float((model.test.argmax(1).numpy() == labels).mean()), 2)
            for name, model in models[pair].items()
        }
        print(pair, accuracy[pair], flush=True)
    return dict(
        images=IMAGES,
        rungs=len(RUNGS),
        pairs=len(pairs),
        accuracy=accuracy,
        choice=choices.judge_choice(scores, accuracy),
        expected=choices.judge_expected(models, accuracy),
    )


def lines(found: dict) -> list[dict]:
    """Return the table's lines: what each candidate chooses, and how far off estimates are."""
    choice, expected, pairs = found['choice'], found['expected'], found['pairs']

    def line(what: str, ours: float | None = None, plain: float | None = None) -> dict:
        return dict(what=what, ours=ours, plain=plain, unit='points', ratio=None)

    rows = [
        line(
            f'chosen by {row["candidate"]}, points behind the best rung (most: '
            f'{row["most_behind"]:.1f}; within 2 on {row["within_two"]} of {pairs} pairs, more '
            f'than 1 below doing nothing on {row["below_nothing"]}), against doing nothing',
            row['mean_behind'],
            choice['nothing_behind'],
        )
        for row in choice['rows']
    ]
    by = Counter(one['candidate'] for one in choice['leave_one_pair_out'].values())
    named = '; '.join(f'{name}: {count} pairs' for name, count in by.most_common())
    rows.append(
        line(
            f'chosen by what is best on the other pairs, of {choice["votes"]} votes ({named}), '
            'points behind the best',
            choice['leave_one_pair_out_mean'],
            choice['nothing_behind'],
        )
    )
    rows += [
        line(f'expected accuracy, {name}: mean error over {expected["models"]} models', error)
        for name, error in expected['errors'].items()
    ]
    shared = expected['shared']
    rows += [
        line(
            'expected accuracy, mutual agreement as it is: mean error over '
            f'{expected["models"]} models',
            shared['plain_error'],
        ),
        line(
            'expected accuracy, mutual agreement on a line that was fitted to the other pairs: '
            f'mean error; 90% intervals hold in {shared["intervals_hold"]:.0%} and are '
            f'{shared["mean_width"]:.0f} points wide',
            shared['error'],
        ),
    ]
    if expected['given']:
        rows.append(
            line(
                f'expected accuracy of one model alone where it is given, {expected["given"]} of '
                f'{expected["models"]}: mean error; 90% intervals hold in '
                f'{expected["intervals_hold"]:.0%} and are {expected["mean_width"]:.0f} points '
                'wide',
                expected['error_where_given'],
            )
        )
    return rows
