"""Trains TLlib's own DANN, CDAN or MCC on the data, network and length of configs/pacs.

TLlib's classes with its examples' defaults: bottleneck of 256, SGD at 0.01 (MCC 0.005) with the
backbone at a tenth, inverse decay; images, order, crops, batches and iterations are those of
configs/pacs/dann.py, and PACS_SOURCE and PACS_TARGET choose the domains. Accuracy is that of the
last iteration. It needs a checkout of thuml/Transfer-Learning-Library or an installed one. Results
are kept in the JSON file, one a method, pair and seed.

    PACS_TARGET=cartoon python tools/benchmarks/tllib_accuracy.py mcc --tllib ../TLlib
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

import harness  # noqa: F401  (finds the package beside a checkout's tools)
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch.nn import functional

from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.strategies import configs_dir

CLASSES, WIDTH = 7, 256
LEARNING_RATES = dict(dann=0.01, cdan=0.01, mcc=0.005)
RESULTS = Path(__file__).resolve().parent / 'results' / 'tllib_accuracy.json'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('method', choices=list(LEARNING_RATES))
    parser.add_argument('--tllib', type=Path, help='checkout of Transfer-Learning-Library')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--iterations', type=int, help='by default those of configs/pacs')
    parser.add_argument('--out', type=Path, default=RESULTS, help='JSON file to add to')
    return parser.parse_args()


def build_loaders(cfg, seed):
    """Training and test loaders of source and target."""
    configs = [
        cfg.train_dataloader,
        inherit_dataloader(cfg.train_dataloader, cfg.train_cfg.target_dataloader, 'target'),
        cfg.test_dataloader,
        inherit_dataloader(cfg.test_dataloader, cfg.test_cfg.dataloaders.target, 'target', True),
    ]
    return [Runner.build_dataloader(config, seed=seed) for config in configs]


def images_of(batch):
    """Normalised as the config's data preprocessor does it, (N, 3, H, W) in RGB."""
    images = torch.stack(list(batch['inputs'])).float().flip(1).sub(127.5).div(127.5)
    return images.to(memory_format=torch.channels_last)


def labels_of(batch):
    return torch.cat([sample.gt_label for sample in batch['data_samples']])


def endless(loader):
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def build_network(cfg):
    import timm

    classifier = importlib.import_module('tllib.alignment.dann').ImageClassifier
    backbone = timm.create_model(cfg.model.backbone.model_name)
    weights = torch.load(cfg.model.backbone.checkpoint_path, weights_only=True)
    backbone.load_state_dict(weights)
    backbone.out_features = backbone.get_classifier().in_features
    backbone.reset_classifier(0, '')
    network = classifier(backbone, CLASSES, bottleneck_dim=WIDTH)
    return network.to(memory_format=torch.channels_last)  # as ours, a third faster on a CPU


def build_loss(method):
    """Return a loss of scores and features of both domains, and the parameters it trains."""
    if method == 'mcc':
        mcc = importlib.import_module('tllib.self_training.mcc')
        confusion = mcc.MinimumClassConfusionLoss(temperature=2.5)
        return lambda scores, features: confusion(scores[1]), []
    discriminator = importlib.import_module('tllib.modules.domain_discriminator')
    domain = discriminator.DomainDiscriminator(
        WIDTH if method == 'dann' else WIDTH * CLASSES, hidden_size=1024
    )
    if method == 'dann':
        dann = importlib.import_module('tllib.alignment.dann')
        adversary = dann.DomainAdversarialLoss(domain).train()
        return lambda scores, features: adversary(*features), domain.get_parameters()
    cdan = importlib.import_module('tllib.alignment.cdan')
    adversary = cdan.ConditionalDomainAdversarialLoss(
        domain,
        entropy_conditioning=False,
        num_classes=CLASSES,
        features_dim=WIDTH,
        randomized=False,
    ).train()
    return (
        lambda scores, features: adversary(scores[0], features[0], scores[1], features[1]),
        domain.get_parameters(),
    )


def train(method, network, source, target, iterations):
    loss_of, parameters = build_loss(method)
    rate = LEARNING_RATES[method]
    optimizer = torch.optim.SGD(
        network.get_parameters() + parameters, rate, momentum=0.9, weight_decay=1e-3, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate * (1 + 0.001 * step) ** -0.75
    )
    network.train()
    for _, batch, other in zip(range(iterations), endless(source), endless(target)):
        scores, features = network(torch.cat([images_of(batch), images_of(other)]))
        scores, features = scores.chunk(2), features.chunk(2)
        loss = functional.cross_entropy(scores[0], labels_of(batch)) + loss_of(scores, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(network, loader):
    network.eval()
    right = [network(images_of(batch)).argmax(1) == labels_of(batch) for batch in loader]
    return round(100 * torch.cat(right).double().mean().item(), 2)


def main():
    args = parse_args()
    torch.set_num_threads(1)
    if args.tllib:
        sys.path.insert(0, str(args.tllib))
    np.float = float  # which TLlib asks numpy for, and numpy 1.24 dropped
    init_default_scope('mmpretrain')
    set_random_seed(args.seed)
    cfg = Config.fromfile(configs_dir() / 'pacs' / 'dann.py', format_python_code=False)
    source, target, source_test, target_test = build_loaders(cfg, args.seed)
    network = build_network(cfg)
    start = time.time()
    iterations = args.iterations or cfg.train_cfg.max_iters
    train(args.method, network, source, target, iterations)
    result = dict(
        method=args.method,
        task=cfg.task,
        seed=args.seed,
        iterations=iterations,
        target=accuracy(network, target_test),
        source=accuracy(network, source_test),
        minutes=round((time.time() - start) / 60, 1),
    )
    print(json.dumps(result))
    known = json.loads(args.out.read_text())['runs'] if args.out.is_file() else []
    same = ('method', 'task', 'seed', 'iterations')
    known = [old for old in known if any(old[key] != result[key] for key in same)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    runs = [*known, result]
    args.out.write_text(json.dumps(dict(torch=torch.__version__, runs=runs), indent=1) + '\n')


if __name__ == '__main__':
    main()
