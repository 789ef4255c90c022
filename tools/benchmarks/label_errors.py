"""Are wrong labels found, and counted? Against cleanlab's ranking of the same probabilities.

    python tools/benchmarks/label_errors.py --out work_dirs/label_errors.json

Wrong labels of three kinds and three rates are put into scikit-learn's digits, 3,000 images of
MNIST (data/mnist, pixels) and PACS photo (data/pacs, features of EfficientNet-Lite0, weights in
data/weights). What is finished is kept: the same command goes on. Needs `pip install cleanlab`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

import harness
import numpy as np

RATES, KINDS = (0.1, 0.2, 0.4), ('symmetric', 'pairs', 'instance')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', nargs='+', choices=DATA, default=list(DATA))
    parser.add_argument('--data-root', type=Path, default=Path('data'))
    parser.add_argument('--weights', default='data/weights/tf_efficientnet_lite0.pth')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/label_errors'))
    harness.add_out(parser)
    return parser.parse_args()


def digits(args):
    """Pixels and labels of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels.astype(str)


def mnist(args):
    """Pixels and labels of the first images of MNIST."""
    from torchvision.datasets import MNIST

    found = MNIST(args.data_root / 'mnist', download=False)
    return found.data[:3000].reshape(3000, -1).numpy() / 255.0, found.targets[:3000].numpy().astype(
        str
    )


def pacs_photo(args):
    """Features of EfficientNet-Lite0 and labels of the photographs, computed once."""
    kept = args.work_dir / 'pacs_photo.npz'
    if not kept.is_file():
        from tl_plugin.analysis.label_inputs import features_of_backbone
        from tl_plugin.intake.any_data import read_data

        domain = read_data(args.data_root / 'pacs' / 'photo')
        items, features = features_of_backbone(
            domain, domain.items, 'timm:tf_efficientnet_lite0', args.weights, args.work_dir, 128
        )
        args.work_dir.mkdir(parents=True, exist_ok=True)
        np.savez(kept, features=features, labels=[item.label for item in items])
    found = np.load(kept)
    return found['features'], found['labels']


DATA = dict(digits=digits, mnist=mnist, pacs_photo=pacs_photo)


def measure(features, true, rate, kind, seed):
    """Put wrong labels in, and judge them."""
    from cleanlab.count import compute_confident_joint
    from cleanlab.rank import get_label_quality_scores
    from sklearn.metrics import average_precision_score

    from tl_plugin.analysis.label_check import check_labels
    from tl_plugin.analysis.label_judges import compact_features, out_of_fold
    from tl_plugin.intake.images import ImageItem
    from tl_plugin.intake.label_noise import noisy_labels

    items = [ImageItem(str(number), label) for number, label in enumerate(true)]
    given = noisy_labels(items, rate, kind, features, seed)
    wrong = np.array(given) != true
    noisy = [ImageItem(item.name, label) for item, label in zip(items, given)]
    start = time.perf_counter()
    report = check_labels('benchmark', noisy, features, seed=seed)
    seconds = time.perf_counter() - start
    numbers = np.unique(given, return_inverse=True)[1]
    space = compact_features(features, seed)
    head = out_of_fold(space, numbers, np.arange(len(items)), seed)
    joint = compute_confident_joint(numbers, head, calibrate=True)
    scores = {one.file: one.score for one in report.findings}
    found = dict(
        wrong=float(wrong.mean()),
        rate=report.rate.value,
        interval=[report.rate.low, report.rate.high],
        cleanlab_rate=float(1 - np.trace(joint) / joint.sum()),
        flagged=len(report.flagged('wrong')),
        flagged_wrong=sum(bool(wrong[int(one.file)]) for one in report.flagged('wrong')),
        counts=report.counts(),
        seconds=round(seconds, 1),
    )
    if wrong.any():
        ranked = [scores[item.name] for item in items]
        found['ours'] = average_precision_score(wrong, ranked)
        for method in ('self_confidence', 'normalized_margin'):
            quality = get_label_quality_scores(numbers, head, method=method)
            found[method] = average_precision_score(wrong, -quality)
    return found


def lines_of(measured):
    """Join the rates of each data set and kind of noise."""
    groups = {}
    for case, found in measured.items():
        group = case.split(',')[0], case.split(',')[1].split()[0]
        groups.setdefault(group, []).append(found)
    lines = []
    for (name, kind), cases in groups.items():
        listed = ', '.join(
            f'{found["rate"]:.1%} estimated of {found["wrong"]:.1%}' for found in cases
        )
        what = f'{name}, {kind}: {listed}'
        if kind == 'none':
            lines.append(dict(what=what, ours=None, plain=None, unit='', ratio=None))
            continue
        theirs = [max(one['self_confidence'], one['normalized_margin']) for one in cases]
        ours = fmean(one['ours'] for one in cases)
        what += '; average precision of the ranking'
        lines.append(harness.line(what, ours, fmean(theirs), unit='', scale=1))
    return lines


def main():
    args = parse_args()
    kept = args.work_dir / 'measured.json'
    measured = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in args.data:
        features, true = DATA[name](args)
        cases = [('none', 0.0), *((kind, rate) for kind in KINDS for rate in RATES)]
        for kind, rate in cases:
            for seed in args.seeds if rate else args.seeds[:1]:
                case = f'{name}, {kind} {rate:g}, seed {seed}'
                if case not in measured:
                    kind_of = 'symmetric' if kind == 'none' else kind
                    measured[case] = measure(features, true, rate, kind_of, seed)
                    args.work_dir.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(measured, indent=2))
                    print(case, json.dumps(measured[case]), file=sys.stderr, flush=True)
    lines = lines_of(measured)
    harness.write(dict(what=__doc__.splitlines()[0], lines=lines, measured=measured), args)


if __name__ == '__main__':
    main()
