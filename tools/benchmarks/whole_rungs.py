"""Whole rungs on eight pairs of domains: the ladder, climbed with few target labels or with none.

Part of recommendations.py, which runs it by --whole-rungs. With --no-target-labels the ladder gets
images of the target in one folder, with numbers for names; their classes lie in another file, which
the judgement alone reads. Otherwise it gets class folders, and trains on LABELS of each class. A
ladder that was stopped goes on, and a finished one is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import choices
import cv2
import harness  # noqa: F401  (puts the package on the path)
import numpy as np
from pairs import PAIRS, load_domain, side_of

from tl_plugin.functional import calibration_errors
from tl_plugin.reliability.files import read_json, write_json

#: Images of a split: training is short, and the judge, for whom images cost little, has many.
SPLITS = dict(source=dict(train=320, val=120, test=120), target=dict(train=320, val=120, test=400))
EPOCHS, NETWORK = 6, 'timm:tf_efficientnet_lite0'
#: Labels of each class of the target, where it has some.
LABELS = 5
#: Points within which rungs count as equally good.
NEAR = 2.0
#: Digits first: their images are small.
ORDER = (*list(PAIRS)[6:], *list(PAIRS)[:6])
_TOOL, _LABELS = Path(__file__).resolve().parents[1] / 'ladder.py', 'labels.json'


def folder_of(pair: str, work_dir: Path) -> Path:
    """Return the folder of a pair."""
    return work_dir / ''.join(c if c.isalnum() else '_' for c in pair)


def write_images(pair: str, data: Path, folder: Path, labelled: bool) -> None:
    """Write a pair's images in class folders; an unlabelled target's in one folder."""
    if (folder / _LABELS).is_file():
        return
    labels = {}
    for (domain, splits), name in zip(SPLITS.items(), PAIRS[pair]):
        # As the test pipeline resizes an image before it crops it.
        side = round(side_of(name) * 8 / 7)
        found = zip(*load_domain(name, data, sum(splits.values()), side))
        for split, count in splits.items():
            for number in range(count):
                image, label = next(found)
                place = folder / 'images' / domain / split
                place /= f'class {label}' if labelled or domain == 'source' else ''
                place.mkdir(parents=True, exist_ok=True)
                path = place / f'{number:03}.png'
                cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
                if domain == 'target':
                    labels[f'{split}/{path.name}'] = int(label)
    write_json(folder / _LABELS, labels)


def climb(
    pair: str, data: Path, weights: Path, folder: Path, labelled: bool, rungs: Sequence[str]
) -> bool:
    """Climb rungs, the default ones if none is named; return whether there are results."""
    ladder = folder / 'ladder'
    if not (ladder / 'results.json').is_file():
        write_images(pair, data, folder, labelled)
        loaders = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
        options = [f'{name}.num_workers=0' for name in loaders]
        options += [f'{name}.persistent_workers=False' for name in loaders]
        images = [f'--{name}={folder / "images" / name}' for name in SPLITS]
        command = [
            *(sys.executable, str(_TOOL), *images, '--backbone', NETWORK),
            *(['--target-labels', str(LABELS)] if labelled else ['--unlabelled']),
            *(['--rungs', *rungs] if rungs else []),
            *('--checkpoint', str(weights), '--image-size', str(side_of(PAIRS[pair][0]))),
            *('--jobs', '1', '--work-dir', str(ladder), '--cfg-options'),
            *(f'train_cfg.max_epochs={EPOCHS}', *options),
        ]
        with (folder / 'console.log').open('ab') as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return (ladder / 'results.json').is_file()


def results_of(folder: Path) -> dict:
    """Read what a ladder found."""
    return json.loads((folder / 'ladder/results.json').read_text(encoding='utf-8'))


def about(pair: str, results: dict) -> dict:
    """Return what a ladder says of a pair."""
    advice = results['recommendation']
    return dict(
        pair=pair,
        recommended=advice['rung'],
        measure=advice['measure'],
        ahead=advice['ahead'],
        left_out=results['left_out'],
        failures=[one['name'] for one in results['failures']],
        commit=results['commit'],
    )


def read_labelled(pair: str, folder: Path) -> dict:
    """Return what a ladder with few target labels found: its test images have labels."""
    results = results_of(folder)
    rungs = {
        rung['name']: dict(
            accuracy=rung['domains']['target']['accuracy'],
            source=rung['domains']['source']['accuracy'],
            seconds=rung['seconds'],
        )
        for rung in results['rungs']
    }
    return {**about(pair, results), 'rungs': rungs}


def judge(pair: str, folder: Path) -> tuple[dict, dict[str, choices.Model]]:
    """Compare what a ladder says of a pair with the target's labels.

    Returns:
        What was found, and the rungs' models.
    """
    results = results_of(folder)
    labels = json.loads((folder / _LABELS).read_text(encoding='utf-8'))
    listed = (folder / 'ladder/lists/target_test.txt').read_text(encoding='utf-8').splitlines()
    truth = np.array([labels['/'.join(Path(line).parts[-2:])] for line in listed])
    rungs, models = {}, {}
    for rung in results['rungs']:
        model = choices.Model(Path(rung['folders'][0], 'outputs.npz'))
        right = float((model.test.argmax(1).numpy() == truth).mean())
        models[rung['name']] = model
        on = rung['domains']['target']
        rungs[rung['name']] = dict(
            accuracy=round(100 * right, 2),
            expected=on['expected_accuracy'],
            interval=on['expected_interval'],
            source=rung['domains']['source']['accuracy'],
            seconds=rung['seconds'],
        )
    row = about(pair, results)
    name = row['recommended']
    (chosen,) = (one for one in results['rungs'] if one['name'] == name)
    found = calibration(chosen['checkpoint'], models[name], truth)
    return {**row, 'rungs': rungs, 'calibration': found}, models


def calibration(checkpoint: str, model: choices.Model, truth: np.ndarray) -> dict | None:
    """Return the expected calibration error on the target, raw and calibrated; None where not."""
    found = read_json(Path(checkpoint).with_suffix('.calibration.json'))
    if found is None:
        return None
    labels = model.target.labels.new_tensor(truth)
    logits = model.test.clamp(min=1e-12).log()
    cooled = (logits / found['temperature']).softmax(1)
    errors = [calibration_errors(one, labels).expected for one in (model.test, cooled)]
    return dict(temperature=found['temperature'], raw=errors[0], calibrated=errors[1])


def behind(row: dict, rung: str) -> float:
    """Return how many points a rung is behind the best one of its pair."""
    accuracies = {name: one['accuracy'] for name, one in row['rungs'].items()}
    return round(max(accuracies.values()) - accuracies[rung], 2)


def measure(
    work_dir: Path,
    data: Path,
    weights: Path,
    pairs: Sequence[str],
    labelled: bool,
    rungs: Sequence[str] = (),
):
    """Climb pair by pair, and yield what was found, as far as it is known by then."""
    for pair in (name for name in ORDER if name in pairs):
        if climb(pair, data, weights, folder_of(pair, work_dir), labelled, rungs):
            yield from read(work_dir, pairs, labelled)


def read(work_dir: Path, pairs: Sequence[str], labelled: bool):
    """Judge what is finished, and yield it."""
    folders = {name: folder_of(name, work_dir) for name in ORDER if name in pairs}
    done = {n: at for n, at in folders.items() if (at / 'ladder/results.json').is_file()}
    if labelled:
        yield summary([read_labelled(name, folder) for name, folder in done.items()], {})
        return
    found = [judge(name, folder) for name, folder in done.items()]
    yield summary([row for row, _ in found], {row['pair']: own for row, own in found})


def summary(rows: list[dict], models: dict[str, dict[str, choices.Model]]) -> dict:
    """Return what was found on all pairs."""
    found = dict(images=SPLITS, epochs=EPOCHS, rows=rows, rungs=standing(rows))
    if len(models) > 2:  # lines are fitted to the others, and their spread to the rest of those
        accuracy = {
            row['pair']: {name: one['accuracy'] for name, one in row['rungs'].items()}
            for row in rows
        }
        scores = {pair: choices.scores_of(own, ()) for pair, own in models.items()}
        found['choice'] = choices.judge_choice(scores, accuracy)
        found['expected'] = choices.judge_expected(models, accuracy)
    return found


def standing(rows: list[dict]) -> dict[str, dict]:
    """Return for each rung on how many pairs it was climbed, won, and was near the best."""
    names = dict.fromkeys(name for row in rows for name in row['rungs'])
    found = {}
    for name in names:
        own = [row for row in rows if name in row['rungs']]
        others = {
            row['pair']: max(
                [one['accuracy'] for other, one in row['rungs'].items() if other != name], default=0
            )
            for row in own
        }
        found[name] = dict(
            pairs=len(own),
            best=sum(behind(row, name) == 0 for row in own),
            near=sum(behind(row, name) <= NEAR for row in own),
            mean_behind=round(fmean(behind(row, name) for row in own), 2),
            # What the best rung would lose if this one weren't there.
            missed=round(
                fmean(
                    max(0.0, row['rungs'][name]['accuracy'] - others[row['pair']]) for row in own
                ),
                2,
            ),
            seconds=round(fmean(row['rungs'][name]['seconds'] for row in own)),
        )
    return found


def lines(found: dict) -> list[dict]:
    """Return the table's lines: what was chosen against the best, what was expected, and rungs."""
    rows = found['rows']

    def line(what, ours=None, plain=None, unit='%'):
        return dict(what=what, ours=ours, plain=plain, unit=unit, ratio=None)

    told = []
    for row in rows:
        best = max(row['rungs'], key=lambda name: row['rungs'][name]['accuracy'])
        own, base = (row['rungs'][name] for name in (row['recommended'], choices.BASELINE))
        told.append(
            line(
                f'{row["pair"]}, target accuracy: {row["recommended"]} is recommended, {best} is '
                f'best; source_only {base["accuracy"]:.1f}',
                own['accuracy'],
                row['rungs'][best]['accuracy'],
            )
        )
    told += [
        line(f'{name}: not measured') for name in ORDER if name not in {r['pair'] for r in rows}
    ]
    if not rows:
        return told
    told.append(_chosen(rows))
    known = [
        (one['expected'] - one['accuracy'], one['interval'], one['accuracy'])
        for row in rows
        for one in row['rungs'].values()
        if one.get('expected') is not None
    ]
    if known:
        held = sum(low <= truth <= high for _, (low, high), truth in known) / len(known)
        told.append(
            line(
                f'expected accuracy of {len(known)} rungs: mean error; 90% intervals hold in '
                f'{held:.0%}',
                fmean(abs(miss) for miss, *_ in known),
                unit='points',
            )
        )
    errors = [row['calibration'] for row in rows if row.get('calibration')]
    if errors:
        told.append(
            line(
                'expected calibration error of the recommended rung on the target, calibrated, '
                'against raw',
                100 * fmean(one['calibrated'] for one in errors),
                100 * fmean(one['raw'] for one in errors),
                'points',
            )
        )
    told += [
        line(
            f'{name}: points behind the best rung; best on {one["best"]} of {one["pairs"]} pairs, '
            f'within {NEAR:.0f} points on {one["near"]}; without it the best rung would lose '
            f'{one["missed"]:.1f}; {one["seconds"]} s',
            one['mean_behind'],
            unit='points',
        )
        for name, one in found['rungs'].items()
    ]
    return [*told, *_candidates(found)]


def _chosen(rows: list[dict]) -> dict:
    """Return the line on how far the recommended rungs are behind the best."""
    lost, nothing = (
        [behind(row, name) for row, name in zip(rows, names)]
        for names in ([row['recommended'] for row in rows], [choices.BASELINE] * len(rows))
    )
    near = sum(value <= NEAR for value in lost)
    below = sum(ours > theirs + 1 for ours, theirs in zip(lost, nothing))
    return dict(
        what=f'recommended, points behind the best rung (within {NEAR:.0f} on {near} of '
        f'{len(rows)} pairs, more than 1 below doing nothing on {below}), against doing nothing',
        ours=fmean(lost),
        plain=fmean(nothing),
        unit='points',
        ratio=None,
    )


def _candidates(found: dict) -> list[dict]:
    """Return lines on other ways to choose and to estimate, judged with a pair left out."""
    if 'choice' not in found:
        return []
    choice, shared = found['choice'], found['expected']['shared']
    pairs, by = (
        len(found['rows']),
        Counter(one['candidate'] for one in choice['leave_one_pair_out'].values()),
    )
    named = '; '.join(f'{name}: {count} pairs' for name, count in by.most_common())
    what = f'chosen by what is best on the other pairs, of {choice["votes"]} votes ({named})'
    told = [
        dict(
            what=f'{what}, points behind the best',
            ours=choice['leave_one_pair_out_mean'],
            plain=choice['nothing_behind'],
            unit='points',
            ratio=None,
        )
    ]
    told += [
        dict(
            what=f'chosen by {row["candidate"]}, points behind the best (within 2 on '
            f'{row["within_two"]} of {pairs} pairs)',
            ours=row['mean_behind'],
            plain=choice['nothing_behind'],
            unit='points',
            ratio=None,
        )
        for row in choice['rows']
    ]
    what = 'expected accuracy, mutual agreement on a line that was fitted to the other pairs'
    told.append(
        dict(
            what=f'{what}: mean error; intervals hold in {shared["intervals_hold"]:.0%}',
            ours=shared['error'],
            plain=None,
            unit='points',
            ratio=None,
        )
    )
    return told
