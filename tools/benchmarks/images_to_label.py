"""Are 50 images that predict.py --to-label chooses worth more than 50 at random, once labelled?

    python tools/benchmarks/images_to_label.py --outputs work_dirs/no_labels

On the features of eight pairs of domains that recommendations.py --no-target-labels keeps: a last
layer is trained on the source and the labelled images, both of the same weight, and judged on the
target's test images. Which images are labelled, a last layer of the source alone says.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import harness
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from without_labels import PAIRS, SPLITS

from tl_plugin.functional import badge_selection

#: Inverse strength of the last layer's weight decay.
C = 0.01


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--outputs', type=Path, required=True, help='folder with features, labels')
    parser.add_argument('--count', type=int, default=50)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    harness.add_out(parser)
    return parser.parse_args()


def last_layer(features, labels, weights=None):
    """Train a last layer."""
    return LogisticRegression(C=C, max_iter=300).fit(features, labels, sample_weight=weights)


def judged(source, target, chosen):
    """Return the accuracy on the target's test images after training on source and chosen ones."""
    (first, labels), (second, others) = source, target
    train, test = SPLITS['train'], SPLITS['test']
    features = np.concatenate([first[train], second[train][chosen]])
    known = np.concatenate([labels[train], others[train][chosen]])
    count = len(labels[train])
    weights = np.concatenate([np.ones(count), np.full(len(chosen), count / len(chosen))])
    return last_layer(features, known, weights).score(second[test], others[test])


def domain(folder, name):
    """Return the features and the labels of a domain."""
    with np.load(folder / 'features' / f'{name}.npz') as found:
        features = found['clean']
    with np.load(folder / 'labels' / f'{name}.npz') as found:
        return features, found['labels']


def main():
    """Print the accuracy of each pair."""
    args = parse_args()
    train = SPLITS['train']
    pairs = {}
    for pair, names in PAIRS.items():
        source, target = (domain(args.outputs, name) for name in names)
        scaler = StandardScaler().fit(source[0][train])
        source, target = ((scaler.transform(part[0]), part[1]) for part in (source, target))
        model = last_layer(source[0][train], source[1][train])
        points = target[0][train]
        tensors = [torch.from_numpy(part).float() for part in (model.predict_proba(points), points)]
        found = dict(chosen=[], random=[])
        for seed in args.seeds:
            generator = torch.Generator().manual_seed(seed)
            chosen = badge_selection(*tensors, args.count, generator).numpy()
            found['chosen'].append(judged(source, target, chosen))
            drawn = np.random.default_rng(seed).choice(len(points), args.count, replace=False)
            found['random'].append(judged(source, target, drawn))
        pairs[pair] = found
        print(pair, {kind: round(fmean(values), 3) for kind, values in found.items()}, flush=True)
    lines = [
        harness.line(
            f'{pair}: accuracy with {args.count} chosen ones, against {args.count} at random',
            100 * fmean(found['chosen']),
            100 * fmean(found['random']),
            unit='%',
            scale=1.0,
        )
        for pair, found in pairs.items()
    ]
    harness.write(dict(pairs=pairs, lines=lines), args)


if __name__ == '__main__':
    main()
