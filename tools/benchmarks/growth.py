"""Measures how costs grow: with images, classes, domains, layers and parameter groups.

Each cost is measured at several sizes and its growth given as an exponent: 1 is in proportion, 0
not at all. The plain way at the same sizes: stock loaders, a linear classifier without an
alignment, mmpretrain's get_layer_depth, one optimizer group. Writes JSON.

    python tools/benchmarks/growth.py --out growth.json
"""

import argparse
import math
import statistics

import harness
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch.utils.data import DataLoader

from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.loops import PairedLoader
from tl_plugin.models.alignments import DomainBatch
from tl_plugin.reliability.replayable_loader import ReplayableLoader


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, nargs='+', default=[1000, 10_000, 100_000])
    parser.add_argument('--classes', type=int, nargs='+', default=[10, 100, 1000])
    parser.add_argument('--domains', type=int, nargs='+', default=[1, 2, 4, 8])
    parser.add_argument('--layers', type=int, nargs='+', default=[6, 12, 24, 48])
    parser.add_argument('--steps', type=int, default=5, help='timed calls of each')
    harness.add_out(parser)
    return parser.parse_args()


def indices(count):
    """Draw one pass of indices: paired, replayable loaders against a stock sampler."""

    def stock(seed):
        data = range(count)  # reading a sample costs nothing
        return DataLoader(
            data, 100, sampler=DefaultSampler(data, shuffle=True, seed=seed), collate_fn=len
        )

    loaders = [ReplayableLoader.of(stock(stream), 0, stream) for stream in (0, 1)]
    pair, plain = PairedLoader(*loaders), [stock(0), stock(1)]
    return (lambda: sum(1 for _ in pair)), (lambda: sum(1 for _ in zip(*plain)))


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


def grow(what, sizes, make, steps):
    """Time ours and the plain way at each size."""
    rows = []
    for size in sizes:
        ours, plain = make(size)
        rows.append(harness.in_turn(dict(ours=ours, plain=plain), steps))
    medians = {way: [statistics.median(row[way]) for row in rows] for way in ('ours', 'plain')}
    exponents = {
        way: math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
        for way, values in medians.items()
    }
    line = harness.line(
        f'{what}: {sizes[0]:,} to {sizes[-1]:,} grows with exponent {exponents["ours"]:.2f}, '
        f'plain {exponents["plain"]:.2f}; at the largest',
        rows[-1]['ours'],
        rows[-1]['plain'],
    )
    return dict(
        what=what,
        sizes=sizes,
        exponents=exponents,
        line=line,
        milliseconds={way: [1000 * value for value in values] for way, values in medians.items()},
    )


def main():
    args = parse_args()
    torch.set_num_threads(1)
    MMLogger.get_instance('growth', log_level='ERROR')
    growths = [
        grow('images, a pass of indices', args.images, indices, args.steps),
        grow(
            'classes, a step of CDAN on features',
            args.classes,
            lambda size: aligned('CDANHead', size),
            args.steps,
        ),
        grow(
            'classes, a step of MCC on features',
            args.classes,
            lambda size: aligned('MCCAlignment', size),
            args.steps,
        ),
        grow(
            'sources, a step of DANN on features',
            args.domains,
            lambda size: aligned('DANNHead', 10, size),
            args.steps,
        ),
        grow('layers, LayerMap', args.layers, layer_map, args.steps),
        grow(
            'layers, each two groups: an optimizer step',
            args.layers,
            optimizer_step,
            4 * args.steps,
        ),
    ]
    lines = [growth.pop('line') for growth in growths]
    harness.write(dict(steps=args.steps, growths=growths, lines=lines), args)


if __name__ == '__main__':
    main()
