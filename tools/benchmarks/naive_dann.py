"""Times a training step with DANN against the naive recipe, and against training on the source.

The naive recipe: source and target go through the network each by itself; the classifier learns,
then the discriminator, on what came out (Sigmoid and BCELoss); then both go through the network
again, which learns to confuse it. Ours is one forward and one backward pass, the whole of
``train_step``, and again with ``channels_last=True``, against the recipe as people write it and
against the recipe with the same layout. Source-only sees as many images as both domains have. The
whole process keeps freed memory, as our train loops have it: the recipe's batches of half the size
don't need that, a joint batch does. Writes JSON.

    python tools/benchmarks/naive_dann.py --out naive_dann.json
"""

import argparse
import copy

import harness
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from tl_plugin.reliability.resumable_loops import keep_freed_memory

CLASSES = 7
#: What is compared: ours with the plain way, by name.
COMPARED = [
    ('dann, against the naive recipe', 'ours', 'naive'),
    ('dann with channels_last=True, against the naive recipe', 'ours_last', 'naive'),
    ('dann, against the naive recipe, both with channels last', 'ours_last', 'naive_last'),
    ('dann, against source-only on as many images', 'ours', 'source_only'),
]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='tf_efficientnet_lite0', help="one of timm's")
    parser.add_argument('--size', type=int, default=96, help='of the images')
    parser.add_argument('--batch-size', type=int, default=24, help='of each domain')
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each')
    parser.add_argument('--threads', type=int, default=2, help='of torch')
    harness.add_device(parser)
    harness.add_out(parser)
    return parser.parse_args()


def build(args, kind, **parts):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type=kind,
                backbone=dict(type='PooledTimmBackbone', model_name=args.model),
                head=dict(
                    type='LinearClsHead', num_classes=CLASSES, in_channels=None, cal_acc=False
                ),
                data_preprocessor=dict(num_classes=CLASSES, mean=[127.5] * 3, std=[127.5] * 3),
                **parts,
            )
        )
    return model.to(args.device).train()


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)


class Ours:
    """``train_step`` of an AdaptationClassifier."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        self.optimizer = OptimWrapper(optimizer_of(model))

    def __call__(self):
        self.model.train_step(self.batch, self.optimizer)


class Naive:
    """The recipe, in plain PyTorch."""

    def __init__(self, model, images, labels):
        self.network, self.head = copy.deepcopy(model.backbone), copy.deepcopy(model.head.fc)
        width = self.head.in_features
        self.discriminator = nn.Sequential(
            nn.Linear(width, 1024),
            nn.ReLU(),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Linear(1024, 1),
            nn.Sigmoid(),
        )
        self.learner = optimizer_of(nn.ModuleList([self.network, self.head]))
        device = next(model.parameters()).device
        self.discriminator.to(device)
        self.images = [(domain.to(device).float() - 127.5) / 127.5 for domain in images]
        self.labels = labels.to(device)
        self.critic = optimizer_of(self.discriminator)

    def features(self):
        return [self.network(images)[-1] for images in self.images]

    def domain_loss(self, source, target, flipped):
        loss = nn.BCELoss()
        scores = [self.discriminator(features).squeeze(1) for features in (source, target)]
        wanted = (0.0, 1.0) if flipped else (1.0, 0.0)
        return sum(loss(s, torch.full_like(s, value)) for s, value in zip(scores, wanted))

    def __call__(self):
        source, target = self.features()
        self.learner.zero_grad()
        nn.functional.cross_entropy(self.head(source), self.labels).backward()
        self.learner.step()
        self.critic.zero_grad()
        self.domain_loss(source.detach(), target.detach(), flipped=False).backward()
        self.critic.step()
        self.learner.zero_grad()
        self.domain_loss(*self.features(), flipped=True).backward()
        self.learner.step()


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    count = args.batch_size
    images = torch.randint(0, 255, (2 * count, 3, args.size, args.size), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (2 * count,))
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    pair = dict(
        source=dict(inputs=images[:count], data_samples=samples[:count]),
        target=dict(inputs=images[count:], data_samples=samples[count:]),
    )
    head = dict(type='DANNHead', hidden_channels=[1024, 1024], norm=None)
    dann = build(args, 'AdaptationClassifier', alignments=dict(dann=head))
    last = build(args, 'AdaptationClassifier', alignments=dict(dann=head), channels_last=True)
    plain = build(args, 'AdaptationClassifier')
    keep_freed_memory(dann)  # as the train loops do; all ways run in this one process
    domains = images.split(count), labels[:count]
    steps = dict(
        ours=Ours(dann, pair),
        naive=Naive(dann, *domains),
        ours_last=Ours(last, pair),
        naive_last=Naive(last, *domains),
        source_only=Ours(plain, dict(inputs=images, data_samples=samples)),
    )
    seconds = harness.in_turn(steps, args.steps, clock=harness.clock_of(args.device))
    lines = [
        harness.line(f'step of {what}', seconds[ours], seconds[other])
        for what, ours, other in COMPARED
    ]
    if args.device != 'cpu':
        memory = {name: harness.peak_memory(step) for name, step in steps.items()}
        lines += [
            harness.line(f'peak memory of {what}', memory[ours], memory[other], 'MB', 1e-6)
            for what, ours, other in COMPARED
        ]
    result = dict(model=args.model, size=args.size, batch_size=count, steps=args.steps)
    harness.write(dict(result, device=args.device, lines=lines), args)


if __name__ == '__main__':
    main()
