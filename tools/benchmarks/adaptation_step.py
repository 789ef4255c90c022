"""Times a training step of DANN against one without, and against TLlib's on the same network.

A step is preprocessing, forward, backward and optimizer, with images in memory: EfficientNet-Lite0
at 96 px, a bottleneck of 256, 24 source and 24 target images for DANN and 48 source images without.
All ways are timed in turn, so that whatever else the machine does hits them alike, and compared by
the median of the ratios within each turn. On a CPU it is the process's own time that counts.
TLlib's step is written as its example does it, with its own classes; it needs a checkout of
thuml/Transfer-Learning-Library (--tllib) or an installed one, and is left out otherwise. Writes
JSON.

    python tools/benchmarks/adaptation_step.py --tllib ../Transfer-Learning-Library --out step.json
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import timm
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

import tl_plugin

SGD = dict(lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-3)
#: The default interval of AdversaryMonitorHook.
MONITOR_INTERVAL = 50


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='tf_efficientnet_lite0', help="timm's name")
    parser.add_argument('--size', type=int, default=96, help='of the images')
    parser.add_argument('--batch-size', type=int, default=24, help='of each domain')
    parser.add_argument('--steps', type=int, default=15, help='timed steps of each')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=1, help='of torch on a CPU')
    parser.add_argument('--tllib', type=Path, help='checkout of Transfer-Learning-Library')
    parser.add_argument('--ways', nargs='+', help='only these, by name')
    parser.add_argument('--profile', action='store_true', help="print where DANN's step goes")
    parser.add_argument('--out', type=Path, help='JSON file; printed in any case')
    return parser.parse_args()


def our_step(args, alignments=None, neck=None, measures=False, **options):
    """One call is one step of an AdaptationClassifier."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = (
            MODELS.build(
                dict(
                    type='AdaptationClassifier',
                    alignments=alignments,
                    neck=neck,
                    backbone=dict(
                        type='PooledTimmBackbone', model_name=args.model, pretrained=False
                    ),
                    head=dict(type='LinearClsHead', num_classes=7),
                    data_preprocessor=dict(num_classes=7, mean=[127.5] * 3, std=[127.5] * 3),
                    **options,
                )
            )
            .to(args.device)
            .train()
        )
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), **SGD))
    if measures:
        model.measure_health()
    number = args.batch_size
    if alignments:
        model.set_progress(0.5)
        data = dict(source=batch(number, args), target=batch(number, args))
    else:
        data = batch(2 * number, args)
    return lambda: model.train_step(data, optimizer)


def batch(number, args):
    """Images as a loader gives them."""
    images = torch.randint(0, 256, (number, 3, args.size, args.size), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(index % 7) for index in range(number)]
    return dict(inputs=images, data_samples=samples)


class Backbone(nn.Module):
    """A timm network as TLlib's classifier wants it."""

    def __init__(self, name):
        super().__init__()
        self.network = timm.create_model(name, num_classes=0, global_pool='')
        self.out_features = self.network.num_features

    def forward(self, images):
        return self.network(images)


def tllib_step(args):
    """One call is one step of TLlib's examples/domain_adaptation/image_classification/dann.py."""
    if args.tllib:
        sys.path.insert(0, str(args.tllib))
    np.float = float  # which TLlib asks numpy for, and numpy 1.24 dropped
    dann = importlib.import_module('tllib.alignment.dann')
    discriminator = importlib.import_module('tllib.modules.domain_discriminator')
    model = dann.ImageClassifier(Backbone(args.model), 7, bottleneck_dim=256)
    model = model.to(args.device).train()
    domain = discriminator.DomainDiscriminator(in_feature=256, hidden_size=1024).to(args.device)
    adversarial = dann.DomainAdversarialLoss(domain).to(args.device).train()
    optimizer = torch.optim.SGD([*model.parameters(), *domain.parameters()], **SGD)
    shape = (args.batch_size, 3, args.size, args.size)
    source, target = torch.randn(shape), torch.randn(shape)
    labels = torch.arange(args.batch_size) % 7

    def step():
        images = torch.cat([source.to(args.device), target.to(args.device)])
        scores, features = model(images)
        loss = nn.functional.cross_entropy(scores.chunk(2)[0], labels.to(args.device))
        loss = loss + adversarial(*features.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # as the example does for its log

    return step


def build_steps(args):
    """Name -> a function that does one step; and why one is missing."""
    neck = dict(type='BottleneckNeck', out_channels=256)
    plain, normed = dict(type='DANNHead'), dict(type='DANNHead', norm='BN')
    steps = {
        'source_only': our_step(args, neck=neck),
        'dann': our_step(args, dict(dann=plain), neck),
        'dann, batch norm as in TLlib': our_step(args, dict(dann=normed), neck),
        'dann, measured': our_step(args, dict(dann=plain), neck, measures=True),
        'dann, channels last': our_step(args, dict(dann=plain), neck, channels_last=True),
        'source_only, no bottleneck': our_step(args),
        'dann, no bottleneck': our_step(args, dict(dann=plain)),
    }
    try:
        steps['tllib'] = tllib_step(args)
    except ImportError as error:
        return steps, f'{error}: give a checkout with --tllib'
    return steps, None


def time_in_turn(steps, args):
    """Seconds of each step, a list a way."""
    clock = time.perf_counter if args.device.startswith('cuda') else time.process_time
    seconds = {name: [] for name in steps}
    for turn in range(args.steps + 2):
        names = list(steps)
        # Who comes after whom changes, for a step finds the memory as the last one left it.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step = steps[name]
            synchronize(args.device)
            start = clock()
            step()
            synchronize(args.device)
            if turn >= 2:
                seconds[name].append(clock() - start)
    return seconds


def synchronize(device):
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def ratio(seconds, name, other):
    """Median, over turns, of how much longer one takes than another."""
    if name not in seconds or other not in seconds:
        return None
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[other]))


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    steps, missing = build_steps(args)
    steps = {name: step for name, step in steps.items() if name in (args.ways or steps)}
    seconds = time_in_turn(steps, args)
    measured = ratio(seconds, 'dann, measured', 'dann')
    result = dict(
        command=' '.join(sys.argv),
        model=args.model,
        size=args.size,
        batch=f'{args.batch_size} + {args.batch_size}',
        steps=args.steps,
        device=args.device,
        threads=args.threads,
        machine=platform.machine(),
        torch=torch.__version__,
        tl_plugin=tl_plugin.__version__,
        tllib_missing=missing,
        milliseconds={
            name: dict(median=1000 * statistics.median(values), fastest=1000 * min(values))
            for name, values in seconds.items()
        },
        ratios={
            'dann / source_only': ratio(seconds, 'dann', 'source_only'),
            'dann / source_only, no bottleneck': ratio(
                seconds, 'dann, no bottleneck', 'source_only, no bottleneck'
            ),
            'dann / tllib': ratio(seconds, 'dann', 'tllib'),
            'dann, batch norm / tllib': ratio(seconds, 'dann, batch norm as in TLlib', 'tllib'),
            'dann, channels last / dann': ratio(seconds, 'dann, channels last', 'dann'),
            'dann, channels last / tllib': ratio(seconds, 'dann, channels last', 'tllib'),
            f'monitor every {MONITOR_INTERVAL} / none': (
                None if measured is None else 1 + (measured - 1) / MONITOR_INTERVAL
            ),
        },
    )
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')
    if args.profile:
        with torch.profiler.profile() as profile:
            steps['dann']()
        print(profile.key_averages().table(sort_by='self_cpu_time_total', row_limit=15))


if __name__ == '__main__':
    main()
