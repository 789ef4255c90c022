"""Measures how costs grow: with images, classes, domains, layers, parameter groups and rungs.

Each cost is measured at several sizes and its growth given as an exponent: 1 is in proportion, 0
not at all. Where there is a plain way, it is measured at the same sizes: stock loaders, a linear
classifier without an alignment, mmpretrain's get_layer_depth, one optimizer group. Images are lists
of what is known of them, without pixels. Writes JSON after each cost; what is in the file already,
at the same sizes, is not measured again.

    python tools/benchmarks/growth.py --out growth.json
"""

import argparse
import io
import json
import math
import pickle
import resource
import statistics
import tempfile
from functools import partial
from pathlib import Path

import harness
import mmcv
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from scipy.fft import dctn, idctn
from torch.utils.data import DataLoader

from tl_plugin.analysis.duplicates import find_duplicates
from tl_plugin.analysis.quality_gap import LABELS, hedges_g, quality_gap
from tl_plugin.analysis.scan import THUMBNAIL, ImageRecord
from tl_plugin.engine.layers import LayerMap
from tl_plugin.evaluation.validators import validator_scores
from tl_plugin.functional.validators import soft_neighborhood_density
from tl_plugin.intake.images import ImageItem
from tl_plugin.ladder.records import DomainResult, LadderResults, RungResult
from tl_plugin.ladder.report import make_report
from tl_plugin.ladder.run_records import Predictions
from tl_plugin.ladder.table import markdown_table
from tl_plugin.models.alignments import DomainBatch
from tl_plugin.reliability.replayable_loader import Draws, ReplayableLoader
from tl_plugin.reliability.seeds import seed_generators


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, nargs='+', default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument('--classes', type=int, nargs='+', default=[10, 100, 1000, 10_000])
    parser.add_argument('--domains', type=int, nargs='+', default=[1, 4, 16, 64])
    parser.add_argument('--layers', type=int, nargs='+', default=[6, 12, 24, 48])
    parser.add_argument('--rungs', type=int, nargs='+', default=[5, 10, 25, 50], help='of 5 seeds')
    parser.add_argument('--steps', type=int, default=5, help='timed calls of each')
    harness.add_out(parser)
    return parser.parse_args()


def indices(count):
    """Draw one pass of indices, as they are sent to workers: replayable against stock."""

    def stock():
        data = range(count)
        return DataLoader(data, 32, sampler=DefaultSampler(data, shuffle=True, seed=0))

    def drawn(loader):
        return lambda: sum(len(pickle.dumps(batch)) for batch in loader._index_sampler)

    return drawn(ReplayableLoader.of(stock(), 0)), drawn(stock())


def seeding(steps):
    """Seed the samples of a batch, against decoding as many JPEG files of 224 px."""
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((224, 224), Image.Resampling.BICUBIC).save(file, 'JPEG')
    content = file.getvalue()

    def ours():
        for draw in Draws(range(32), range(32), 1234567):
            seed_generators(*draw.seeds)

    seconds = harness.in_turn(
        dict(ours=ours, plain=lambda: [mmcv.imfrombytes(content) for _ in range(32)]), 10 * steps
    )
    return harness.line(
        'seeding 32 samples in the worker, against decoding 32 JPEG files of 224 px',
        seconds['ours'],
        seconds['plain'],
    )


def records_of(count):
    """Make what a scan would find: smooth noise, one image in twenty a near copy."""
    random = np.random.default_rng(0)
    fall = (1 + np.add.outer(np.arange(THUMBNAIL), np.arange(THUMBNAIL))) ** 1.2
    records = []
    for start in range(0, count, 10_000):
        number = min(10_000, count - start)
        copies = number // 20
        waves = random.normal(size=(number, THUMBNAIL, THUMBNAIL)).astype(np.float32) / fall
        pixels = idctn(waves, axes=(1, 2)).reshape(number, -1)
        pixels -= pixels.min(1)[:, None]
        pixels *= 255 / pixels.max(1)[:, None]
        pixels[number - copies :] = pixels[:copies] + random.uniform(
            -6, 6, (copies, pixels[0].size)
        )
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        low = dctn(pixels.reshape(waves.shape).astype(np.float32), axes=(1, 2))[:, :8, :8]
        low = low.reshape(number, -1)
        hashes = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
        records += [
            ImageRecord(
                (), quality={}, digest=str(start + at), hash=h.tobytes(), thumbnail=p.tobytes()
            )
            for at, (h, p) in enumerate(zip(hashes, pixels))
        ]
    return records


def duplicates(count):
    """Find copies among all images, half of each domain."""
    records = records_of(count)
    items = [ImageItem(str(number)) for number in range(count)]
    domains = ['source' if number < count // 2 else 'target' for number in range(count)]
    return lambda: find_duplicates(items, domains, records)


def qualities(count):
    """Make statistics of two domains, drawn from a few hundred different images each."""
    random = np.random.default_rng(0)
    known = [
        [dict(zip(LABELS, row)) for row in random.normal(mean, 1, (997, len(LABELS)))]
        for mean in (0, 0.3)
    ]
    return [[rows[i] for i in random.integers(0, 997, count // 2)] for rows in known]


def quality(count):
    """Compare the quality of two domains, as diagnose does."""
    domains = qualities(count)
    return lambda: quality_gap(*domains)


def quality_error(count):
    """Tell how far effects estimated on a sample are from those of all images."""
    domains = qualities(count)
    found = {gap.name: gap.effect for gap in quality_gap(*domains).statistics}
    tables = [np.array([[row[name] for name in found] for row in rows]) for rows in domains]
    exact = dict(zip(found, hedges_g(*(table.T for table in tables))))
    error = max(abs(found[name].value - exact[name]) for name in found)
    stated = max((effect.high - effect.low) / 2 for effect in found.values())
    return harness.line(
        f'quality effects of {count:,} images by a sample: largest error, against the largest half '
        'of a 95% interval',
        error,
        stated,
        unit='standard deviations',
        scale=1,
    )


def probabilities_of(images, classes):
    logits = 3 * torch.randn(images, classes, generator=torch.Generator().manual_seed(0))
    return logits.softmax(1)


def validators(classes):
    """All scores that need no labels, of 2,000 images."""
    probabilities = probabilities_of(2000, classes)
    return lambda: validator_scores(probabilities)


def density(images):
    """Compute the one score that compares images with each other."""
    probabilities = probabilities_of(images, 10)
    return lambda: soft_neighborhood_density(probabilities)


def density_error(images):
    probabilities = probabilities_of(images, 10)
    exact = float(soft_neighborhood_density(probabilities, most=images))
    error = abs(float(soft_neighborhood_density(probabilities)) - exact)
    return harness.line(
        f'soft neighborhood density of {images:,} images by a sample: error, against the stated '
        'bound of its standard error',
        error,
        math.log(images - 1) / 2 / 8192**0.5,
        unit='nats',
        scale=1,
    )


def ladder(folder, rungs, classes, images=2000, seeds=5):
    """Write what a climb leaves behind, without training, and return its results."""
    random = np.random.default_rng(0)
    found = []
    for number in range(rungs):
        folders = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(seeds)]
        for place in folders:
            (place / 'run' / 'vis_data').mkdir(parents=True)
            truth = random.integers(0, classes, images)
            guess = np.where(
                random.random(images) < 0.7, truth, random.integers(0, classes, images)
            )
            predictions = Predictions(truth.tolist(), guess.tolist(), [0.9] * images).to_json()
            (place / 'predictions.json').write_text(
                json.dumps(dict(source=predictions, target=predictions))
            )
            scalars = [dict(step=step, loss=1 / step) for step in range(1, 101)]
            scalars += [
                {'step': s, 'source/accuracy/top1': s, 'target/accuracy/top1': s} for s in (1, 2)
            ]
            (place / 'run' / 'vis_data' / 'scalars.json').write_text(
                '\n'.join(map(json.dumps, scalars))
            )
        on = DomainResult(70.0, [70.0] * seeds, 1.0, [68.0, 72.0], images, images, 1.0)
        found.append(
            RungResult(
                f'rung_{number}',
                seeds=list(range(seeds)),
                domains=dict(source=on, target=on),
                folders=list(map(str, folders)),
            )
        )
    return LadderResults('growth.py', rungs=found)


def report(folder, rungs, classes):
    """Make the page of a climb; there are no images to show."""
    results, cfg = ladder(folder, rungs, classes), Config(dict(model=dict()))
    return lambda: make_report(results, cfg)


def table(folder, rungs):
    """Make the table of a climb."""
    results = ladder(folder, rungs, 10)
    return lambda: markdown_table(results)


def build(kind, **settings):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(type=kind, **settings))


def aligned(kind, classes, domains=None, batch=48, width=256):
    """One loss and its backward pass on features: with an alignment against a classifier alone."""
    several = {} if domains is None else dict(num_sources=domains)
    alignment = build(kind, in_features=width, num_classes=classes, **several)
    classifier = torch.nn.Linear(width, classes)
    features = torch.randn(2 * batch, width, requires_grad=True)
    labels = torch.randint(classes, (batch,))

    def parts():
        logits = classifier(features)
        source = DomainBatch(features[:batch], logits[:batch], labels)
        target = DomainBatch(features[batch:], logits[batch:], torch.full((batch,), -1))
        if domains is not None:
            source = source._replace(domains=torch.arange(batch) % domains)
        return source, target

    def plain():
        source, _ = parts()
        torch.nn.functional.cross_entropy(source.logits, labels).backward()

    def ours():
        source, target = parts()
        loss = torch.nn.functional.cross_entropy(source.logits, labels)
        (loss + alignment(source, target)).backward()

    return ours, plain


def vit(layers):
    arch = dict(embed_dims=24, num_layers=layers, num_heads=2, feedforward_channels=48)
    return build(
        'ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16),
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=24),
    )


def layer_map(layers):
    """Find the layers of a model, against asking mmpretrain for the depth of each parameter."""
    model = vit(layers)
    return (lambda: LayerMap.from_model(model)), (
        lambda: {
            name: model.backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
            for name, _ in model.backbone.named_parameters()
        }
    )


def optimizer_step(layers):
    """One optimizer step with two groups a layer, against one group in all."""
    model = vit(layers)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    options = ConfigDict(
        optimizer=dict(type='AdamW', lr=1e-3, foreach=True),
        constructor='LayerwiseLROptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours = build_optim_wrapper(model, options).optimizer
    plain = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    return ours.step, plain.step


def grow(what, sizes, make, steps, warmup=1):
    """Time ours, and the plain way where there is one, at each size."""
    rows = []
    for size in sizes:
        made = make(size)
        ways = dict(zip(('ours', 'plain'), made if isinstance(made, tuple) else (made,)))
        rows.append(harness.in_turn(ways, steps, warmup))
    medians = {way: [statistics.median(row[way]) for row in rows] for way in rows[0]}
    exponents = {
        way: math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
        for way, values in medians.items()
    }
    plain = f', plain {exponents["plain"]:.2f}' if 'plain' in exponents else ''
    text = (
        f'{what}: {sizes[0]:,} to {sizes[-1]:,} grows with exponent {exponents["ours"]:.2f}{plain}'
        '; at the largest'
    )
    if plain:
        line = harness.line(text, rows[-1]['ours'], rows[-1]['plain'])
    else:
        line = dict(what=text, ours=1000 * medians['ours'][-1], plain=None, unit='ms', ratio=None)
    return dict(
        what=what,
        sizes=sizes,
        exponents=exponents,
        line=line,
        milliseconds={way: [1000 * value for value in values] for way, values in medians.items()},
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def size_of_page(folder, rungs, classes):
    page = report(folder, rungs, classes)()
    what = f'report of {rungs} rungs of 5 seeds on {classes:,} classes, against 5 MB'
    return harness.line(what, len(page.encode()), 5e6, unit='MB', scale=1e-6)


def costs(args, folder):
    """Yield what to measure, the quick ones first: name, sizes, how to make it, timed calls."""
    steps = args.steps
    yield 'images, a pass of indices', args.images, indices, steps
    for name, kind in (('CDAN', 'CDANHead'), ('MCC', 'MCCAlignment')):
        what = f'classes, a step of {name} on features'
        yield what, args.classes, partial(aligned, kind), steps
    yield (
        'sources, a step of DANN on features',
        args.domains,
        partial(aligned, 'DANNHead', 10),
        steps,
    )
    yield 'layers, LayerMap', args.layers, layer_map, steps
    yield 'layers, each two groups: an optimizer step', args.layers, optimizer_step, 4 * steps
    yield 'rungs of 5 seeds, the table', args.rungs, partial(table, folder), 1
    yield 'rungs of 5 seeds, the page', args.rungs, partial(report, folder, classes=10), 1
    yield 'classes, the page of 2 rungs', args.classes, partial(report, folder, 2), 1
    yield 'images, the gap of image quality', args.images, quality, 1
    few = [count for count in args.images if count <= 10**5]
    yield 'images, soft neighborhood density', few, density, 1
    yield 'classes, all validators of 2,000 images', args.classes, validators, 1
    yield 'images, finding near duplicates', args.images, duplicates, 1


def main():
    args = parse_args()
    torch.set_num_threads(1)
    MMLogger.get_instance('growth', log_level='CRITICAL')
    known = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    known = {(growth['what'], *growth['sizes']): growth for growth in known.get('growths', ())}
    growths, first = [], [seeding(args.steps)]

    def write(*more):
        lines = [*first, *(growth['line'] for growth in growths), *more]
        harness.write(dict(steps=args.steps, growths=growths, lines=lines), args)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first.append(size_of_page(folder, 2, min(1000, max(args.classes))))
        for cost in costs(args, folder):
            found = known.get((cost[0], *cost[1])) or grow(*cost, warmup=int(cost[-1] > 1))
            growths.append(found)
            write()
    write(quality_error(max(args.images)), density_error(min(max(args.images), 30_000)))


if __name__ == '__main__':
    main()
