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
import yaml

from tl_plugin.analysis.corruption_curves import corruptions_path
from tl_plugin.datasets.wrappers import image_infos, inner_datasets
from tl_plugin.evaluation.calibration import calibration_path
from tl_plugin.reliability.files import read_json
from tl_plugin.strategies import available_strategies, describe

FILL_IN = '*(to fill in)*'
UNKNOWN = 'not known'


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


def write_card(
    name: str,
    checkpoint: str | Path,
    metadata: Mapping[str, Any],
    datasets: Mapping[str, Any],
    files: Sequence[str],
    agreement: Sequence[str],
) -> str:
    """Return the card of an exported model.

    Args:
        name: The model's.
        checkpoint: That it was exported from; the records of its run lie around it.
        metadata: Of the export.
        datasets: Domain -> the data set that the domain is tested on.
        files: What was written beside the card.
        agreement: How near these come to the checkpoint, in sentences.
    """
    found = find_record('results.json', checkpoint)
    results = read_json(found) if found else None
    rung = rung_of(results, checkpoint) if results else None
    parts = [
        _front_matter(name, metadata, rung),
        f'# {name}',
        _what(metadata, rung),
        _data(datasets, checkpoint),
        _accuracy(rung, results),
        _calibration(checkpoint),
        _corruptions(checkpoint),
        _limits(rung),
        '\n'.join(['## Files', '', *(f'- `{file}`' for file in files), '', *_items(agreement)]),
        _commands(rung),
        _versions(metadata, results),
    ]
    return '\n\n'.join(part.strip('\n') for part in parts if part) + '\n'


def _front_matter(name: str, metadata: Mapping[str, Any], rung: Mapping | None) -> str:
    tags = ['image-classification', 'transfer-learning']
    content: dict[str, Any] = dict(
        license='other',
        license_name='to-fill-in',
        library_name='onnx' if 'input' in metadata else 'mmpretrain',
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
        lines += ['', f'It is the rung `{rung["name"]}` of a ladder. {rung["about"]}'.strip()]
        known = available_strategies()
        for strategy in rung['strategies']:
            if strategy in known:
                paper = _paper(known[strategy])
                lines.append(
                    f'- `{strategy}`: {describe(strategy)}' + (f' {paper}' if paper else '')
                )
            else:
                lines.append(f'- `{strategy}`')
        lines.append(f'\nIt learned from: {rung["data"]}.')
    else:
        lines += ['', 'No `results.json` of a ladder lies around its checkpoint.']
    return '\n'.join(lines)


def _paper(overlay: Path) -> str:
    """Return what the overlay's heading says of its paper."""
    found = re.search(
        r'^# Paper +(.+?)^# \S|^# Paper +(.+?)^[^#]',
        overlay.read_text(encoding='utf-8'),
        re.M | re.S,
    )
    text = (found[1] or found[2]) if found else ''
    return ' '.join(line.lstrip('# ').strip() for line in text.splitlines()).strip()


def _data(datasets: Mapping[str, Any], checkpoint: str | Path) -> str:
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
    if findings:
        advice = (read_json(findings) or {}).get('advice') or {}
        reasons = advice.get('reasons') or advice.get('sentences') or []
        lines += ['', 'The diagnosis of the two domains said:', '', *_items(map(str, reasons))]
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
        f'Percent of test images that are right, over {len(rung["seeds"])} seed(s); change in '
        'points against the model that learned from the source alone.',
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
                f'\nExpected on {domain} without its labels: {value:.1f}% (90% interval '
                f'{interval}).'
            )
    return '\n'.join(lines)


def _calibration(checkpoint: str | Path) -> str:
    found = read_json(calibration_path(checkpoint))
    if not found:
        return f'## Calibration\n\n{UNKNOWN}: tools/calibrate.py was not run on it.'
    before, after = (100 * found[key] for key in ('error_before', 'error_after'))
    return (
        '## Calibration\n\n'
        f'Expected calibration error {before:.1f}% as trained, {after:.1f}% with a temperature of '
        f'{found["temperature"]:.3f}, on {found["images"]:,} images: {found["fitted_on"]}.'
    )


def _corruptions(checkpoint: str | Path) -> str:
    found = read_json(corruptions_path(checkpoint))
    if not found:
        return f'## Corruptions\n\n{UNKNOWN}: tools/test.py --corruptions was not run on it.'
    lines = ['## Corruptions', '', 'Accuracy in percent at severities 1 to 5.', '']
    for domain, about in found['domains'].items():
        lines += [
            f'On {domain}, without any: {about["clean"]:.1f}; mean corruption error '
            f'{about["mean_error"]:.1f}'
            + (
                f', {about["mce"]:.1f} in percent of {found["baseline"]}'
                if about.get('mce') is not None
                else ''
            )
            + '.',
            '',
            '| corruption | 1 | 2 | 3 | 4 | 5 |',
            '| --- | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name, curve in about['corruptions'].items():
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
    origin = metadata['provenance']
    trained = (results or {}).get('versions') or {}
    lines = [f'- {name} {version}' for name, version in trained.items() if version]
    lines += [f'- {name}: {value}' for name, value in origin.items() if value is not None]
    return '\n'.join(['## Versions and origin', '', *lines])


def _items(sentences: Any) -> Iterator[str]:
    return (f'- {sentence}' for sentence in sentences)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f'{value:.1f}'


def _interval(value: Sequence[float] | None) -> str:
    return UNKNOWN if value is None else f'{value[0]:.1f} to {value[1]:.1f}'
