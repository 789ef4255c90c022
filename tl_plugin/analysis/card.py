"""Write a model card: what a model is, learned from and reaches, out of the records of its run.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, arXiv 1810.03993, in Markdown with
the YAML front matter that model hubs read. Every figure is read from a file that a run wrote; what
only a person can know is left to fill in.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import tl_plugin
from tl_plugin.datasets.wrappers import image_infos, inner_datasets
from tl_plugin.evaluation.calibration import calibration_path
from tl_plugin.functional import expected_error
from tl_plugin.reliability.files import read_json
from tl_plugin.strategies import available_strategies, describe

from .corruption_curves import curves_in_words, curves_of

FILL_IN = '*(to fill in)*'
UNKNOWN = 'not known'
#: What rungs learn from, in words.
LEARNED_FROM = {
    'source': 'source images with labels',
    'target': 'target images without labels',
    'labelled_target': 'the target images that have labels',
}


def find_record(name: str, checkpoint: str | Path) -> Path | None:
    """Find a record of a run, in the folder of its checkpoint or in one of the two above.

    Args:
        name: 'results.json' of a ladder, 'findings.json' of a diagnosis.
        checkpoint: The model's.
    """
    folders = list(Path(checkpoint).absolute().parents)[:3]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def rung_of(results: Mapping, checkpoint: str | Path) -> dict | None:
    """Return the row of a ladder that a checkpoint is of; None where it is of none.

    Args:
        results: Content of ``results.json``.
        checkpoint: The model's.
    """
    path = Path(checkpoint).absolute()
    for rung in results.get('rungs', []):
        folders = [Path(folder).name for folder in rung['folders']]
        if path.parent.name in folders and path.parent.parent.name == rung['name']:
            return rung
        if Path(rung['checkpoint']).absolute() == path:
            return rung
    return None


def origin_of(checkpoint: str | Path, meta: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return where a model comes from, without a path of this machine.

    Args:
        checkpoint: Its file.
        meta: Of the checkpoint.
        model: Type of the model.
    """
    return {
        'checkpoint': Path(checkpoint).name,
        'sha256': hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
        'model': model,
        'epoch': meta.get('epoch'),
        'iter': meta.get('iter'),
        'seed': meta.get('seed'),
        'tl_plugin': tl_plugin.__version__,
        'torch': str(torch.__version__),
    }


def write_card(
    name: str,
    checkpoint: str | Path,
    metadata: Mapping[str, Any],
    datasets: Mapping[str, Any],
    files: Sequence[str],
    agreement: Sequence[str] = (),
    weights: str | None = None,
    library: str = 'mmpretrain',
) -> str:
    """Return the card of a model.

    Args:
        name: The model's.
        checkpoint: The model, or what it was exported from; the records of its run lie around it.
        metadata: ``classes``, and ``provenance`` as :func:`origin_of` returns it.
        datasets: Domain -> the data set that the domain is tested on.
        files: What belongs to the model.
        agreement: How near an export comes to the checkpoint, in sentences. Defaults to ().
        weights: Fingerprint of the weights that predict: a calibration of others is left out.
            Defaults to None, no calibration is looked for.
        library: That loads the model. Defaults to 'mmpretrain'.
    """
    found = find_record('results.json', checkpoint)
    results = read_json(found) if found else None
    rung = rung_of(results, checkpoint) if results else None
    parts = [
        _front_matter(name, library, rung),
        f'# {name}',
        _what(metadata, rung),
        _data(datasets, checkpoint, results),
        _accuracy(rung, results),
        _calibration(checkpoint, rung, weights),
        _corruptions(checkpoint),
        _limits(rung),
        '\n'.join(['## Files', '', *(f'- `{file}`' for file in files), '', *_items(agreement)]),
        _commands(rung),
        _versions(metadata, results),
    ]
    return '\n\n'.join(part.strip('\n') for part in parts if part) + '\n'


def _front_matter(name: str, library: str, rung: Mapping | None) -> str:
    tags = ['image-classification', 'transfer-learning']
    content: dict[str, Any] = dict(
        license='other',
        license_name='to-fill-in',
        library_name=library,
        pipeline_tag='image-classification',
        tags=tags,
    )
    if rung:
        tags += ['domain-adaptation', *map(str, rung['strategies'])]
        measured = [
            dict(
                task=dict(type='image-classification'),
                dataset=dict(type='custom', name=f'{domain} test images'),
                metrics=[dict(type='accuracy', value=found['accuracy'], name='accuracy, percent')],
            )
            for domain, found in rung['domains'].items()
            if found['accuracy'] is not None
        ]
        if measured:
            content['model-index'] = [dict(name=name, results=measured)]
    return f'---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---'


def _what(metadata: Mapping[str, Any], rung: Mapping | None) -> str:
    lines = [
        f'An image classifier of {len(metadata["classes"]) or "unnamed"} classes'
        + (f': {", ".join(metadata["classes"])}.' if metadata['classes'] else '.')
    ]
    if rung:
        lines += ['', f'It is the rung `{rung["name"]}` of a ladder. {rung["about"]}'.strip(), '']
        known = available_strategies()
        for strategy in rung['strategies']:
            if strategy in known:
                paper = _paper(known[strategy])
                lines.append(
                    f'- `{strategy}`: {describe(strategy)}' + (f' {paper}' if paper else '')
                )
            else:
                lines.append(f'- `{strategy}`')
        data = (LEARNED_FROM.get(part, part) for part in rung['data'].split('+'))
        lines.append(f'\nIt learned from {" and ".join(data)}.')
    else:
        lines += ['', 'No `results.json` of a ladder lies around its checkpoint.']
    return '\n'.join(lines)


def _paper(overlay: Path) -> str:
    """Return what the overlay's heading says of its paper, '' where it has none."""
    found = re.search(
        r'^# Paper +(.+?)^# \S|^# Paper +(.+?)^[^#]',
        overlay.read_text(encoding='utf-8'),
        re.M | re.S,
    )
    text = (found[1] or found[2]) if found else ''
    text = ' '.join(line.lstrip('# ').strip() for line in text.splitlines()).strip()
    return '' if text.startswith('None') else text


def _data(datasets: Mapping[str, Any], checkpoint: str | Path, results: Mapping | None) -> str:
    rows = [
        f'| {domain} | {_name(dataset)} | {len(dataset):,} | `{content_hash(dataset)}` |'
        for domain, dataset in datasets.items()
    ]
    lines = [
        '## Data',
        '',
        'Test images. The hash is of the content of all, in any order and under any name.',
        '',
        '| domain | data set | images | hash |',
        '| --- | --- | ---: | --- |',
        *rows,
        '',
        f'Where they come from, who may use them: {FILL_IN}',
    ]
    findings = find_record('findings.json', checkpoint)
    if findings is None and results:
        findings = Path(results['config']).with_name('findings.json')
    advice = ((read_json(findings) if findings else None) or {}).get('advice')
    if advice:
        said = [advice['headline'], *advice['reasons']]
        lines += ['', 'The diagnosis of the two domains said:', '', *_items(said)]
    return '\n'.join(lines)


def content_hash(dataset: Any) -> str:
    """Hash what the images of a data set hold, whatever their names and order.

    Args:
        dataset: A built data set.

    Returns:
        16 hexadecimal digits of a SHA-256.
    """
    hashes = []
    for info in image_infos(dataset):
        if info.get('img') is not None:
            content = np.ascontiguousarray(info['img']).tobytes()
        else:
            content = Path(info['img_path']).read_bytes()
        hashes.append(hashlib.sha256(content).digest())
    return hashlib.sha256(b''.join(sorted(hashes))).hexdigest()[:16]


def _name(dataset: Any) -> str:
    """Return the names of what holds the images: the last parts of their folders or lists."""
    names = []
    for inner in inner_datasets(dataset):
        place = getattr(inner, 'data_root', '') or getattr(inner, 'ann_file', '')
        names.append('/'.join(Path(str(place)).parts[-2:]) or type(inner).__name__)
    return ', '.join(dict.fromkeys(names))


def _accuracy(rung: Mapping | None, results: Mapping | None) -> str:
    if not rung:
        return f'## Accuracy\n\n{UNKNOWN}: no record of a test was found.'
    rows = []
    for domain, found in rung['domains'].items():
        accuracy, interval = found['accuracy'], found['accuracy_interval']
        change = found['change']
        rows.append(
            f'| {domain} | {_percent(accuracy)} | {_interval(interval)} | '
            f'{found["images"] or 0:,} of {found["test_images"] or 0:,} | '
            f'{UNKNOWN if change is None else f"{change:+.1f}"} |'
        )
    lines = [
        '## Accuracy',
        '',
        f'Percent of test images that are right, of {len(rung["seeds"])} '
        f'run{"s" if len(rung["seeds"]) > 1 else ""}; change in points against the model that '
        'learned from the source alone.',
        '',
        '| domain | accuracy | 95% interval | labelled images | change |',
        '| --- | ---: | ---: | ---: | ---: |',
        *rows,
    ]
    lost = (rung['domains'].get('source') or {}).get('change')
    if lost is not None and lost < 0:
        lines += ['', f'On the source it lost {-lost:.1f} points.']
    chosen = (results or {}).get('recommendation') or {}
    if chosen.get('rung') == rung['name']:
        lines += ['', 'The ladder recommended it:', '', *_items(chosen['reasons'])]
    for domain, found in rung['domains'].items():
        if found.get('expected_accuracy') is not None:
            value, interval = found['expected_accuracy'], _interval(found['expected_interval'])
            lines.append(
                f'\nEstimated on {domain} without its labels: {value:.1f}% (90% interval '
                f'{interval}); shifts unlike any degradation of images put it far off.'
            )
        elif found.get('no_expected_accuracy'):
            lines.append(
                f'\nNo estimate on {domain} without its labels: {found["no_expected_accuracy"]}.'
            )
    return '\n'.join(lines)


def _calibration(checkpoint: str | Path, rung: Mapping | None, weights: str | None) -> str:
    lines = ['## Calibration', '']
    found = read_json(calibration_path(checkpoint)) if weights else None
    predicted = read_json(Path(checkpoint).with_name('predictions.json')) if rung else None
    for domain, one in (predicted or {}).items():
        known = [index for index, label in enumerate(one['truth']) if label is not None]
        if known:
            confidence = torch.tensor([one['confidence'][index] for index in known])
            right = torch.tensor([one['truth'][i] == one['predicted'][i] for i in known])
            lines.append(
                f'- On {domain} test images, as trained: its mean confidence is '
                f'{100 * confidence.mean().item():.1f}%, right are {100 * right.float().mean():.1f}'
                f'%, the expected calibration error is '
                f'{100 * expected_error(confidence, right):.1f}% ({len(known):,} images).'
            )
    if found and found['checkpoint'] == weights:
        before, after = (100 * found[key] for key in ('error_before', 'error_after'))
        lines.append(
            f'- Expected calibration error {before:.1f}% as trained, {after:.1f}% with a '
            f'temperature of {found["temperature"]:.3f}, on {found["images"]:,} images: '
            f'{found["fitted_on"]}.'
        )
    elif found:
        lines.append('- The calibration beside the checkpoint is of other weights: left out.')
    else:
        lines.append('- Its temperature was not fitted (tools/calibrate.py).')
    return '\n'.join(lines)


def _corruptions(checkpoint: str | Path) -> str:
    found = curves_of(checkpoint) if Path(checkpoint).is_file() else None
    if found is None:
        return f'## Corruptions\n\n{UNKNOWN}: tools/test.py --corruptions was not run on it.'
    lines = [
        '## Corruptions',
        '',
        'Accuracy in percent on test images under corruptions (`DegradeQuality` of tl_plugin) at '
        'severities 1 to 5.',
        '',
    ]
    for (domain, one), words in zip(found.domains.items(), curves_in_words(found)):
        lines += [
            f'{words[0].upper()}{words[1:]}.',
            '',
            f'| on {domain} | 1 | 2 | 3 | 4 | 5 |',
            '| --- | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name, curve in one.corruptions.items():
            lines.append(f'| {name} | {" | ".join(f"{value:.1f}" for value in curve)} |')
        lines.append('')
    return '\n'.join(lines)


def _limits(rung: Mapping | None) -> str:
    lines = [
        '## Intended use and limits',
        '',
        f'Intended use: {FILL_IN}',
        '',
        '- It knows its classes alone, and gives one of them to any image.',
        '- Figures hold for images like those of the tests; another camera is another domain.',
    ]
    if rung and any(found['accuracy'] is None for found in rung['domains'].values()):
        lines.append('- Its accuracy on images without labels is not known.')
    if rung and len(rung['seeds']) == 1:
        lines.append('- It was trained once: what another seed would give is not known.')
    return '\n'.join(lines)


def _commands(rung: Mapping | None) -> str:
    lines = ['## Commands', '', '```bash']
    if rung and rung['command']:
        lines.append(rung['command'])
    return '\n'.join([*lines, shlex.join(['python', *sys.argv]), '```'])


def _versions(metadata: Mapping[str, Any], results: Mapping | None) -> str:
    # What trained the model and what wrote the card may be of other versions.
    trained = {
        f'{name}, trained with': v for name, v in ((results or {}).get('versions') or {}).items()
    }
    found = {**trained, **metadata['provenance']}
    lines = [f'- {name}: {value}' for name, value in found.items() if value is not None]
    return '\n'.join(['## Versions and origin', '', *lines])


def _items(sentences: Any) -> Iterator[str]:
    return (f'- {sentence}' for sentence in sentences)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f'{value:.1f}'


def _interval(value: Sequence[float] | None) -> str:
    return UNKNOWN if value is None else f'{value[0]:.1f} to {value[1]:.1f}'
