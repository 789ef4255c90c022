"""The report: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.ladder import curves
from tl_plugin.ladder.files import read_json
from tl_plugin.ladder.recommend import BASELINE
from tl_plugin.ladder.results import recommended_rung
from tl_plugin.ladder.run_rung import PREDICTIONS_JSON
from tl_plugin.ladder.table import interval_note, rows

REPORT_NAME = 'report.html'
TEMPLATE = Path(__file__).with_name('report.html.j2')
DOMAINS = ('source', 'target')
NUM_SAMPLES = 10


def make_report(results: dict, cfg: Config) -> str:
    """Return the report's HTML.

    Args:
        results: Content of results.json, with at least one rung.
        cfg: The config that the ladder stands on; its test data give the sample images.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    predictions = {rung['name']: _predictions(rung) for rung in results['rungs']}
    datasets = {domain: build_dataset(cfg, domain) for domain in DOMAINS}
    classes = class_names(datasets['source'], predictions)
    _, cells = rows(results)
    # Without a recommendation the report shows what doing nothing gives.
    chosen = recommended_rung(results) or results['rungs'][0]
    flip = to_rgb(cfg)
    return template.render(
        results=results,
        table=list(zip(results['rungs'], cells)),
        chosen=chosen,
        overview=curves.plot_overview(results),
        intervals=interval_note(results),
        kept=kept_layers(results),
        flips=flips(datasets['target'], classes, predictions, chosen['name'], flip),
        baseline=next((rung for rung in results['rungs'] if rung['name'] == BASELINE), None),
        samples={
            domain: samples(datasets[domain], domain, classes, predictions, chosen['name'], flip)
            for domain in DOMAINS
        },
        rungs=[
            _rung_pictures(rung, predictions[rung['name']], classes) for rung in results['rungs']
        ],
    )


def build_dataset(cfg: Config, domain: str):
    """Build the test data set of one domain."""
    loader = cfg.test_dataloader
    if domain != 'source':
        loader = inherit_dataloader(loader, cfg.test_cfg.dataloaders[domain], 'test_cfg')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        return DATASETS.build(loader['dataset'])


def class_names(dataset, predictions: dict) -> list[str]:
    """The classes' names, or their numbers where the data set names none."""
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if names:
        return [str(name) for name in names]
    seen = [
        label
        for seeds in predictions.values()
        for seed in seeds
        for found in seed.values()
        for label in (*found['truth'], *found['predicted'])
    ]
    return [str(label) for label in range(max(seen) + 1)]


def to_rgb(cfg: Config) -> bool:
    """Whether the pipeline gives BGR, which the model's preprocessor turns around."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return bool(preprocessor.get('to_rgb'))


def samples(
    dataset, domain: str, classes: Sequence[str], predictions: dict, best: str, flip: bool
) -> list[dict]:
    """Pick test images, as many classes as there is room for, with what two rungs say of them.

    Returns:
        Dicts of ``image`` (data URI), ``truth`` and ``said``, rung -> predicted class.
    """
    first = predictions[best][0][domain]
    _, firsts = np.unique(first['truth'], return_index=True)
    said = {
        rung: predictions[rung][0][domain]
        for rung in dict.fromkeys([BASELINE, best])
        if rung in predictions
    }
    return [_sample(dataset, int(i), classes, said, flip) for i in firsts[:NUM_SAMPLES]]


def flips(
    dataset, classes: Sequence[str], predictions: dict, chosen: str, flip: bool
) -> dict[str, list[dict]]:
    """Pick target images whose prediction the chosen rung turned right (gained) or wrong (lost).

    Returns:
        ``gained`` and ``lost``, each with as many images as :func:`samples` shows, and as many in
        all under ``gained_count`` and ``lost_count``; nothing where doing nothing was chosen.
    """
    if chosen == BASELINE or BASELINE not in predictions:
        return {}
    before, after = (predictions[name][0]['target'] for name in (BASELINE, chosen))
    truth = np.array(before['truth'])
    was, now = (np.array(found['predicted']) == truth for found in (before, after))
    found = {}
    for name, indices in (('gained', ~was & now), ('lost', was & ~now)):
        places = np.flatnonzero(indices)
        found[f'{name}_count'] = len(places)
        said = {'source_only': before, chosen: after}
        found[name] = [_sample(dataset, int(i), classes, said, flip) for i in places[:NUM_SAMPLES]]
    return found


def kept_layers(results: dict) -> dict | None:
    """Pictures of how alike the rungs' layers are to the source model's, where it was measured.

    Returns:
        ``pictures``, domain -> image and words; ``names`` by number; ``images`` by domain and
        ``seconds`` a rung; None where no rung was compared.
    """
    numbered = dict(enumerate(results['rungs'], 1))
    rungs = {
        number: rung
        for number, rung in numbered.items()
        if rung.get('kept_layers') and rung['name'] != BASELINE
    }
    if not rungs:
        return None
    first = next(iter(rungs.values()))['kept_layers']
    # A rung of another network has layers of its own.
    rungs = {n: r for n, r in rungs.items() if r['kept_layers']['layers'] == first['layers']}
    pictures = {}
    for domain in DOMAINS:
        last = {r['name']: r['kept_layers'][domain]['cka'][-1] for r in rungs.values()}
        words = '; '.join(f'{name} {cka:.2f}' for name, cka in last.items() if cka is not None)
        pictures[domain] = {'image': curves.plot_kept_layers(rungs, domain), 'words': words}
    return {
        'pictures': pictures,
        'names': {number: rung['name'] for number, rung in rungs.items()},
        'images': first['images'],
        'seconds': np.mean([rung['kept_layers']['seconds'] for rung in rungs.values()]),
    }


def _sample(dataset, index: int, classes: Sequence[str], said: dict, flip: bool) -> dict:
    inputs = np.asarray(dataset[index]['inputs'])
    image = np.ascontiguousarray((inputs[::-1] if flip else inputs).transpose(1, 2, 0))
    truth = next(iter(said.values()))['truth'][index]
    return {
        'image': curves.image_data_uri(image),
        'truth': classes[truth],
        'said': {rung: classes[found['predicted'][index]] for rung, found in said.items()},
    }


def _rung_pictures(rung: dict, predictions: list[dict], classes: Sequence[str]) -> dict:
    records = [curves.read_scalars(Path(folder)) for folder in rung['folders']]
    training, validation = ([record[part] for record in records] for part in (0, 1))
    ends = [run[-1]['loss'] for run in training if run]
    matrices = {}
    for domain in DOMAINS:
        counts = curves.confusion_matrix([seed[domain] for seed in predictions], len(classes))
        matrices[domain] = {
            'image': curves.plot_confusion(counts, classes, domain),
            'confused': _most_confused(counts, classes),
        }
    return {
        'row': rung,
        'loss': curves.plot_loss(training) if ends else None,
        'final_loss': f'{np.mean(ends):.3f}' if ends else None,
        # One validation makes no curve.
        'accuracy': curves.plot_accuracy(validation) if max(map(len, validation)) > 1 else None,
        'sweep': _sweep(rung),
        'confusion': matrices,
    }


def _sweep(rung: dict) -> dict | None:
    """The first seed's interpolation, if the rung is one."""
    folder = Path(rung['folders'][0])
    found = read_json(folder / 'interpolation.json')
    if found is None:
        return None
    picture = curves.png_data_uri((folder / 'interpolation.png').read_bytes())
    return {'image': picture, 'chosen': found['chosen']}


def _most_confused(counts: np.ndarray, classes: Sequence[str], number: int = 3) -> str:
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(mistakes, axis=None)[::-1][:number]
    pairs = [np.unravel_index(index, counts.shape) for index in order]
    named = [
        f'{classes[truth]} taken for {classes[said]} ({mistakes[truth, said]} times)'
        for truth, said in pairs
        if mistakes[truth, said]
    ]
    return ', '.join(named) or 'no mistakes'


def _predictions(rung: dict) -> list[dict]:
    return [read_json(Path(folder) / PREDICTIONS_JSON) for folder in rung['folders']]
