"""How well calibrated is a model on a target without labels, raw and with each temperature?

    python tools/benchmarks/calibration.py --outputs work_dirs/no_labels

Reads the outputs of many models of eight pairs of domains that recommendations.py
--no-target-labels keeps. Temperatures are fitted on held-out source images, as they are and
together with copies degraded in all ways, as tools/calibrate.py --target does before it shrinks
them towards 1 by how few the images are. Target labels are read here alone, to judge. What the
shrinking is worth is measured on the source alone: with a temperature of a few of its held-out
images, on the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import harness
import numpy as np
import torch
import torch.nn.functional as F
from pairs import PAIRS
from without_labels import SPLITS, _file_name

from tl_plugin.functional import calibration_errors, fit_temperature, shrunk_temperature

#: Images that a temperature is fitted to where they are few, and how often they are drawn.
FEW, DRAWS = 42, 20
KINDS = ('raw', 'source', 'source and degraded copies')


def parse_args():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--outputs', type=Path, required=True, help='folder with outputs, labels')
    harness.add_out(parser)
    return parser.parse_args()


def few_images(path):
    """Return the cross-entropy on source images, by temperatures of others: raw, fitted, shrunk."""
    with np.load(path) as found:
        logits, labels = (
            torch.from_numpy(found[f'source.{name}']) for name in ('log_probabilities', 'labels')
        )
    rng, losses = np.random.default_rng(0), []
    for _ in range(DRAWS):
        few, others = torch.from_numpy(rng.permutation(len(labels))).tensor_split([FEW])
        given = logits[few], labels[few]
        temperatures = 1.0, fit_temperature(*given), shrunk_temperature(*given).value
        losses.append(
            [F.cross_entropy(logits[others] / t, labels[others]).item() for t in temperatures]
        )
    return losses


def errors_of(path, labels):
    """Return the expected calibration error on the target's test images with each temperature."""
    with np.load(path) as found:
        arrays = {name: torch.from_numpy(found[name]) for name in found}
    sets = [n for n in arrays if n.startswith(('source.', 'degraded.')) and n.endswith('.labels')]
    temperatures = [1.0]
    for names in (['source.labels'], sets):
        logits = [arrays[name.replace('.labels', '.log_probabilities')] for name in names]
        known = torch.cat([arrays[name] for name in names])
        temperatures.append(fit_temperature(torch.cat(logits), known))
    logits = arrays['test.probabilities'].clamp(min=1e-12).log()
    return [calibration_errors((logits / t).softmax(1), labels).expected for t in temperatures]


def main():
    """Print the mean error of each pair."""
    args = parse_args()
    pairs, few = {}, []
    for pair, (_, target) in PAIRS.items():
        paths = sorted((args.outputs / 'outputs' / _file_name(pair)).glob('*.npz'))
        known = args.outputs / 'labels' / f'{target}.npz'
        if not paths or not known.is_file():
            continue
        labels = torch.from_numpy(np.load(known)['labels'][SPLITS['test']]).long()
        errors = [errors_of(path, labels) for path in paths]
        few += [losses for path in paths for losses in few_images(path)]
        pairs[pair] = dict(
            zip(KINDS, (fmean(values) for values in zip(*errors))), models=len(paths)
        )
        print(pair, pairs[pair], flush=True)
    if not pairs:
        raise SystemExit(f'{args.outputs} holds no outputs: run recommendations.py first')
    raw = 100 * fmean(found['raw'] for found in pairs.values())
    lines = [
        harness.line(
            f'mean over {len(pairs)} pairs, temperature of {kind}, against the raw model',
            100 * fmean(found[kind] for found in pairs.values()),
            raw,
            unit='%',
            scale=1.0,
        )
        for kind in KINDS[1:]
    ]
    raw = fmean(losses[0] for losses in few)
    for place, kind in ((1, 'as fitted'), (2, 'shrunk towards 1')):
        harmed = fmean(losses[place] > losses[0] for losses in few)
        what = f'temperature of {FEW} source images, {kind}: cross-entropy on others, against the '
        what += f'raw model (higher in {harmed:.0%} of draws)'
        mean = fmean(losses[place] for losses in few)
        lines.append(harness.line(what, mean, raw, unit='', scale=1.0))
    harness.write(dict(pairs=pairs, lines=lines), args)


if __name__ == '__main__':
    main()
