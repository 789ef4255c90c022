"""Measures, and writes the table of README.md from what was measured.

python tools/benchmarks/make_readme.py                        # the table alone
python tools/benchmarks/make_readme.py --measure              # everything, one after the other
python tools/benchmarks/make_readme.py --measure growth       # one of them
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import yaml

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'
PACS = FOLDER.parents[1] / 'configs' / 'pacs'
OVERLAYS = {'dann': 'dann', 'adapt+cdan': 'cdan', 'adapt+mcc': 'mcc'}  # ours -> TLlib's

# Name -> what it measures, and its arguments for the table; None: it needs some that differ from
# machine to machine, and is measured by its own command.
BENCHMARKS = {
    'cached_features': ('features computed once, against in every epoch', []),
    'naive_dann': ('a step of DANN, against the naive recipe and source-only', []),
    'adaptation_step': ('a step of DANN in detail, and against TLlib where it is there', []),
    'optimizer_step': ('an optimizer step with merged groups, against one group a tensor', []),
    'frozen_trunk': ('a frozen trunk, against one under no_grad by hand: time and memory', []),
    'frozen_savings': ('bytes between ranks with a frozen trunk, against unused parameters', []),
    'paired_loading': ('a pair of loaders, against one of the same total batch', []),
    'ddp_scaling': ('a second process, and bytes reduced, by phase', []),
    'import_time': ('importing, reading and building, against mmpretrain alone', []),
    'run_overhead': ('what a run costs beside training: hooks, and what they save', []),
    'growth': (
        'cost by images, classes, sources, layers, groups, rungs: in proportion or less, but for '
        'near duplicates, of which a million images have the more to look through the denser they '
        'lie, and for the neighborhood density, which compares all images with all, or with 8,192 '
        'of them. Seeding is more than 1% of decoding: the generators of Python, numpy and torch '
        'are seeded for each image, so that any number of processes draws what one would',
        [],
    ),
    'tllib_accuracy': (
        "TLlib's own DANN, CDAN and MCC on configs/pacs, beside its metafile; each at its own "
        "defaults: TLlib's MCC learns at 0.005, ours at 0.01, and dann_mcc at 0.02 with milder "
        'crops, both chosen on cartoon -> photo',
        None,
    ),
    'pacs_pairs': (
        'frozen_alignment and self_training on all pairs of PACS, against the best of '
        "TLlib's DANN, CDAN and MCC; all six were looked at while ours were written",
        None,
    ),
    'frozen_neighbours': (
        'labels of frozen_alignment that spread to neighbours, against none: how many is chosen '
        'without the pair whose row it is, by target and source accuracy together',
        None,
    ),
    'recommendations': (
        'recommended rung against the best by labels; 64 pixels, few epochs; self_training is what '
        'the rung was before, pseudo_label on the source model',
        None,
    ),
    'without_labels': (
        'models on frozen features chosen without target labels, and their expected accuracy',
        None,
    ),
    'whole_rungs': (
        'the default rungs of whole ladders chosen without target labels, and their expected '
        'accuracy; short training on 320 images a domain, 96 pixels, digits 64',
        None,
    ),
    'candidate_rungs': (
        'the rungs that were climbed by default before, on these pairs, without target labels; the '
        'other interpolation is towards self_training',
        None,
    ),
    'labelled_rungs': (
        'rungs of whole ladders with 5 labels of each class of the target, on these pairs',
        None,
    ),
    'labelled_defaults': (
        'the same of the default rungs, auto_rgn and lora, since self_training and lora warm up',
        None,
    ),
    'label_errors': (
        "wrong labels put in, found and counted, against cleanlab's ranking of the same "
        'probabilities',
        None,
    ),
    'noisy_rungs': (
        'what wrong source labels cost, and how much of it the rungs cleaned and robust win back',
        None,
    ),
    'predict_speed': ('a table of predictions, against a bare loop over the same loader', []),
    'calibration': ('expected calibration error on a target without labels, by temperature', None),
    'images_to_label': ('50 images chosen by --to-label, against 50 at random', None),
    'drift': ('looks at new images without a false alarm, and corruptions that raise one', None),
    'corruption_judge': (
        "our corruptions beside ImageNet-C's by another implementation, on the same images: "
        "mean errors, ours and the judge's",
        None,
    ),
    'overlays': ('sdat, adamatch and aad on the digits, against what they extend', None),
    'few_labels': (
        'training a part, or each layer at its own rate, against fine-tuning: 5 labels a class, '
        "four pairs, three seeds; lora's warm-up and its head's rate were chosen on two pairs of "
        'PACS that are not among them, cartoon -> photo and art_painting -> cartoon',
        None,
    ),
    'wrong_labels': (
        'strategies for wrong labels on digits, a fifth of them wrong: accuracy on clean images',
        None,
    ),
    'flagged_pacs': (
        'labels of PACS as they are: the first 50 images a domain that check_labels lists, looked '
        'at one by one; each stands in results/flagged_pacs.json',
        None,
    ),
    'check_labels_time': ('a check of the labels of 10,000 images, against three minutes', []),
    'test_time': ('test-time adaptation, against the source model, in two kinds of stream', None),
    'sweep_layers': ('how many stock models have layers that pass every check', []),
    'sweep_export': (
        'how many small networks export and predict the same; a stopped sweep goes on, by networks '
        'of timm and mmpretrain in turns',
        None,
    ),
}
#: Those that another one's options measure.
PARTS = dict(
    without_labels='recommendations.py --no-target-labels',
    whole_rungs='recommendations.py --no-target-labels --whole-rungs',
    candidate_rungs='recommendations.py --no-target-labels --whole-rungs --rungs ...',
    labelled_rungs='recommendations.py --whole-rungs --rungs ...',
    labelled_defaults='recommendations.py --whole-rungs --rungs ...',
)
MEASURABLE = [name for name, (_, arguments) in BENCHMARKS.items() if arguments is not None]

HEAD = """# Benchmarks

Each is one command, compares with the plain way in the same run, and writes JSON. A ratio below 1
is a saving of time or memory, and for images/s one above 1 a gain. Where both ways take turns, the
ratio is the median over the turns.

This page was made by `python tools/benchmarks/make_readme.py` out of `results/*.json`;
`python tools/benchmarks/make_readme.py --measure` measures everything before.
"""


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--measure',
        nargs='*',
        metavar='NAME',
        choices=MEASURABLE,
        help='measure these before, or all',
    )
    parser.add_argument('--results', type=Path, default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--readme', type=Path, default=FOLDER / 'README.md')
    return parser.parse_args()


def measure(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(FOLDER / f'{name}.py'), *BENCHMARKS[name][1]]
    # The sweep's own file holds every model, and what it goes on from.
    out = '--brief' if name == 'sweep_layers' else '--out'
    subprocess.run([*command, out, str(folder / f'{name}.json')], check=True, cwd=FOLDER.parents[1])


def lines_of(name, result):
    """Return the lines of a benchmark in one form."""
    return OWN_FORMS[name](result) if name in OWN_FORMS else result['lines']


def _optimizer_step(result):
    ours, theirs = 'LayerwiseLROptimWrapperConstructor', 'LearningRateDecayOptimWrapperConstructor'
    return [
        _line(
            f'ViT of width {row["width"]}: {result["optimizer"]} step',
            *(row['constructors'][name]['milliseconds'] for name in (ours, theirs)),
            'ms',
        )
        for row in result['results']
    ]


def _frozen_savings(result):
    found = []
    for row in result['rows']:
        ways = [row['ways'][way] for way in ('set_trainable', 'find_unused_parameters')]
        what = f'{row["frozen_layers"]} of 14 layers frozen, {result["processes"]} processes'
        found.append(_line(f'{what}: step', *(way['milliseconds'] for way in ways), 'ms'))
        found.append(_line(f'{what}: bytes', *(way['bytes_per_step'] / 1e6 for way in ways), 'MB'))
    return found


def _adaptation_step(result):
    return [
        dict(what=name, ours=None, plain=None, unit='', ratio=value)
        for name, value in result['ratios'].items()
        if value is not None
    ]


def _tllib_accuracy(result):
    """Each method of TLlib's against the same of ours, and its best against our best config."""
    entries = yaml.safe_load((PACS / 'metafile.yml').read_text(encoding='utf-8'))['Models']
    ours = {
        entry['Name']: {run['seed']: run['target'] for run in entry['Runs']} for entry in entries
    }
    theirs = {}
    for run in result['runs']:
        seeds = theirs.setdefault(run['task'], {}).setdefault(run['method'], {})
        seeds[run['seed']] = run['target']
    found = []
    for task, methods in sorted(theirs.items(), reverse=True):
        best = max(methods, key=lambda name: fmean(methods[name].values()))
        measured = [pair for pair in OVERLAYS.items() if pair[1] in methods]
        for config, method in [*measured, ('dann_mcc', best)]:
            mine = ours.get(f'{config}_{task.replace(" -> ", "_to_")}', {})
            found.append(
                _by_seeds(
                    f'{task}, target accuracy: {config} and TLlib {method}', mine, methods[method]
                )
            )
    return found


def _by_seeds(what, ours, plain):
    """Means over the seeds that both were trained with."""
    seeds = sorted(set(ours) & set(plain))
    if not seeds:
        return dict(
            what=f'{what} (ours: not measured)',
            ours=None,
            unit='%',
            ratio=None,
            plain=fmean(plain.values()),
        )
    text = ', '.join(map(str, seeds))
    return _line(
        f'{what} (seed{"s" * (len(seeds) > 1)} {text})',
        *(fmean(values[seed] for seed in seeds) for values in (ours, plain)),
        '%',
    )


def _line(what, ours, plain, unit):
    return dict(what=what, ours=ours, plain=plain, unit=unit, ratio=ours / plain)


def _sweep_layers(result):
    found = []
    for library, counts in result['summary'].items():
        built = counts['passed'] + counts['failed']
        found.append(
            dict(
                what=f'{library}: passed, of {built} that build',
                ours=counts['passed'],
                plain=built,
                unit='',
                ratio=counts['passed'] / built,
            )
        )
        for name, model in result['results'][library].items():
            found.append(
                dict(
                    what=f'{library} {name}, {model["status"]}: {model["problems"][0]}'.replace(
                        '|', '/'
                    )[:120],
                    ours=None,
                    plain=None,
                    unit='',
                    ratio=None,
                )
            )
    return found


def _drift(result):
    right = result['looks'] - len(result['false_alarms'])
    what = f'looks at {result["images"]} images of the same domain without an alarm'
    found = [_line(what, right, result['looks'], '')]
    by_severity = {}
    for name, (verdict, _) in result['corruptions'].items():
        corruption, severity = name.rsplit(' ', 1)
        by_severity.setdefault(severity, {})[corruption] = verdict != 'as before'
    for severity, seen in sorted(by_severity.items()):
        missed = ', '.join(name for name, alarm in seen.items() if not alarm)
        what = f'corruptions at severity {severity} that raise an alarm'
        what += f' (missed: {missed})' if missed else ''
        found.append(_line(what, sum(seen.values()), len(seen), ''))
    return found


def _sweep_export(result):
    done = sum(counts['built'] + counts['not_built'] for counts in result['summary'].values())
    found = [_line('networks tried so far, of the sample', done, result['of'], '')]
    for library, counts in result['summary'].items():
        for format in ('onnx', 'torch_export'):
            what = f'{library}: {format} agrees, of those that build'
            found.append(_line(what, counts[format], counts['built'], ''))
        for name, model in result['results'][library].items():
            reasons = [model[f].get('reason') for f in ('onnx', 'torch_export') if f in model]
            reason = model.get('not_built') or next(filter(None, reasons), None)
            if reason:
                what = f'{library} {name}: {reason}'.replace('|', '/')[:200]
                found.append(dict(what=what, ours=None, plain=None, unit='', ratio=None))
    return found


def _flagged_pacs(result):
    found = []
    for domain, part in result['domains'].items():
        called = [('listed', part['images'])]
        called += [('called wrong', [one for one in part['images'] if one['kind'] == 'wrong'])]
        for what, images in filter(lambda pair: pair[1], called):
            for verdict in ('wrong', 'ambiguous', 'right'):
                count = sum(one['verdict'] == verdict for one in images)
                text = f'{domain}: label {verdict}, of the first that are {what}'
                found.append(_line(text, count, len(images), ''))
    return found


OWN_FORMS = dict(
    flagged_pacs=_flagged_pacs,
    sweep_export=_sweep_export,
    drift=_drift,
    optimizer_step=_optimizer_step,
    frozen_savings=_frozen_savings,
    adaptation_step=_adaptation_step,
    tllib_accuracy=_tllib_accuracy,
    sweep_layers=_sweep_layers,
)


def number(value, unit=''):
    """Write a figure with three significant digits.

    >>> number(1234.5, 's'), number(0.0123, 'MB'), number(None, 'ms')
    ('1,234 s', '0.0123 MB', '')
    """
    if value is None:
        return ''
    text = f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
    return f'{text} {unit}'.strip()


def section(name, path):
    """Write the part of one benchmark: what, by which command, on what, and its lines."""
    text = [f'## {name}\n', f'{BENCHMARKS[name][0][0].upper()}{BENCHMARKS[name][0][1:]}.\n']
    if not path.is_file():
        tool = PARTS.get(name, f'{name}.py')
        return '\n'.join([*text, f'    python tools/benchmarks/{tool}\n', 'Not measured yet.\n'])
    result = json.loads(path.read_text(encoding='utf-8'))
    command = ' '.join(['python', f'tools/benchmarks/{name}.py', *(BENCHMARKS[name][1] or ['...'])])
    place = result.get('machine') or result.get('device') or 'this machine'
    text += [
        f'    {result.get("command", command)}\n',
        f'Measured on {place}, torch {result.get("torch") or result["versions"]["torch"]}.\n',
        '| | ours | plain | ratio |',
        '| --- | ---: | ---: | ---: |',
    ]
    text += [
        f'| {line["what"]} | {number(line["ours"], line["unit"])} | '
        f'{number(line["plain"], line["unit"])} | '
        f'{number(line.get("ratio_in_turn", line["ratio"]))} |'
        for line in lines_of(name, result)
    ]
    return '\n'.join([*text, ''])


def page(results):
    """Write the whole of README.md."""
    sections = [section(name, results / f'{name}.json') for name in BENCHMARKS]
    return '\n'.join([HEAD, *sections])


def main():
    args = parse_args()
    for name in (args.measure or MEASURABLE) if args.measure is not None else ():
        measure(name, args.results)
    args.readme.write_text(page(args.results), encoding='utf-8')


if __name__ == '__main__':
    main()
