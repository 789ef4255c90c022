"""Times an optimizer step with our merged groups against mmpretrain's one group per tensor.

Both constructors get the same model, options and gradients, and their steps are timed in turn, so
that whatever else the machine does hits both alike. The cost of a group is fixed, that of its
weights grows with them: on a GPU the groups decide, on a CPU the weights of a model as large as
ViT-B hide them, which is why the same network is timed narrow as well. Writes JSON.

    python tools/benchmarks/optimizer_step.py --widths 768 48 --out optimizer_step.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import tl_plugin  # noqa: F401

OURS, THEIRS = 'LayerwiseLROptimWrapperConstructor', 'LearningRateDecayOptimWrapperConstructor'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--widths',
        type=int,
        nargs='+',
        default=[768, 48],
        help='embed_dims of a 12-layer ViT; 768 is ViT-B',
    )
    parser.add_argument('--optimizer', default='AdamW')
    parser.add_argument(
        '--implementation', choices=['foreach', 'fused', 'forloop'], default='foreach'
    )
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=1, help='of torch on a CPU')
    parser.add_argument('--out', type=Path, help='JSON file; printed in any case')
    return parser.parse_args()


def build(width, device):
    arch = dict(embed_dims=width, num_layers=12, num_heads=12, feedforward_channels=4 * width)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='VisionTransformer', arch=arch),
                head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=width),
            )
        ).to(device)


def optimizer_of(model, constructor, args):
    flags = dict(foreach=args.implementation == 'foreach', fused=args.implementation == 'fused')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return build_optim_wrapper(
            model,
            ConfigDict(
                optimizer=dict(type=args.optimizer, lr=1e-3, weight_decay=0.05, **flags),
                constructor=constructor,
                paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.0, flat_decay_mult=0.0),
            ),
        ).optimizer


def timed_step(optimizer, device):
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    start = time.perf_counter()
    optimizer.step()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(width, args):
    """Time both constructors on one model."""
    model = build(width, args.device)
    for value in model.parameters():
        value.grad = torch.randn_like(value)
    optimizers = {name: optimizer_of(model, name, args) for name in (OURS, THEIRS)}
    seconds = {name: [] for name in optimizers}
    for step in range(args.steps + 3):
        for name, optimizer in optimizers.items():
            took = timed_step(optimizer, args.device)
            if step >= 3:  # state is made in the first step, caches fill in the next
                seconds[name].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return dict(
        width=width,
        weights=sum(value.numel() for value in model.parameters()),
        constructors={
            name: dict(
                groups=len(optimizer.param_groups),
                milliseconds=1000 * median[name],
                fastest_milliseconds=1000 * min(seconds[name]),
            )
            for name, optimizer in optimizers.items()
        },
        ratio=median[OURS] / median[THEIRS],
        ratio_of_fastest=min(seconds[OURS]) / min(seconds[THEIRS]),
    )


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('optimizer_step', log_level='ERROR')
    on_gpu = args.device.startswith('cuda')
    result = dict(
        optimizer=args.optimizer,
        implementation=args.implementation,
        steps=args.steps,
        device=torch.cuda.get_device_name() if on_gpu else f'CPU, {args.threads} threads',
        machine=platform.machine(),
        torch=torch.__version__,
        results=[compare(width, args) for width in args.widths],
    )
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
