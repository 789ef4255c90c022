"""Times feature extraction from a cache against computing features in every epoch.

Both train the same head on the same frozen network, with all of mmengine's hooks, for the same
number of epochs, without augmentation; the images are those of one PACS domain, a fifth of them
held out. The whole training is timed, including the extraction of the features, and the accuracies
are compared. Then epochs from the cache alternate with those of a bare PyTorch loop over the same
tensors, in CPU time of the process. Writes JSON.

    python tools/benchmarks/cached_features.py --epochs 30 --out cached_features.json
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import harness
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tl_plugin.reliability.fault_tolerance import make_fault_tolerant
from tl_plugin.strategies import apply_strategies, configs_dir

CACHED, PLAIN = 'feature_extraction_cached', 'feature_extraction'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    data = configs_dir().parent / 'data'
    parser.add_argument(
        '--images',
        type=Path,
        default=data / 'pacs' / 'photo',
        help='a folder with a folder of images a class',
    )
    parser.add_argument(
        '--weights',
        type=Path,
        default=data / 'weights/tf_efficientnet_lite0.pth',
        help='see tools/convert_efficientnet_lite0.py',
    )
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--batch-size', type=int, default=24)
    parser.add_argument(
        '--head-batch-sizes',
        type=int,
        nargs='*',
        default=[24, 256, 512],
        help='of the epochs that are timed against a bare loop',
    )
    parser.add_argument('--head-epochs', type=int, default=20, help='epochs of each')
    parser.add_argument(
        '--head',
        choices=['linear', 'bottleneck'],
        default='bottleneck',
        help='1280 -> 7, or 1280 -> 256, batch norm, ReLU, 256 -> 7',
    )
    parser.add_argument('--threads', type=int, default=2, help='of torch')
    parser.add_argument('--workers', type=int, default=0, help='of the loader')
    parser.add_argument('--skip-plain', action='store_true', help='only time the head')
    harness.add_out(parser)
    return parser.parse_args()


def make_config(args, strategy, work_dir, batch_size, epochs):
    cfg = Config.fromfile(configs_dir() / 'pacs' / 'source_only.py', format_python_code=False)
    pipeline = cfg.test_pipeline  # no augmentation, so that both see the same
    for key, held_out in (('train_dataloader', False), ('test_dataloader', True)):
        loader = cfg[key]
        loader.dataset.dataset.update(data_root=str(args.images), pipeline=pipeline)
        loader.dataset.test_mode = held_out
        loader.update(num_workers=args.workers, persistent_workers=False)
    cfg.train_dataloader.update(batch_size=batch_size, drop_last=True)
    cfg.model.backbone.checkpoint_path = str(args.weights)
    if args.head == 'linear':
        cfg.model.neck, cfg.model.head.in_channels = None, 1280
    cfg.model.head.cal_acc = False
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = dict()
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3))
    cfg.param_scheduler = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs)
    cfg.default_hooks = dict(
        logger=dict(type='LoggerHook', interval=50),
        checkpoint=dict(type='CheckpointHook', interval=epochs),
    )
    cfg.log_processor = dict(by_epoch=True)
    cfg.log_level, cfg.work_dir, cfg.launcher = 'ERROR', str(work_dir), 'none'
    cfg.experiment_name = f'{strategy}_{time.time_ns()}'
    return make_fault_tolerant(apply_strategies(cfg, [strategy]))


def train(args, strategy, work_dir):
    """Train in one of the two ways, and return the time, accuracy and head."""
    runner = Runner.from_cfg(make_config(args, strategy, work_dir, args.batch_size, args.epochs))
    start = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - start
    return dict(
        seconds=seconds,
        accuracy=runner.test()['accuracy/top1'],
        images=len(runner.train_dataloader.dataset),
        head=[value.detach() for value in runner.model.head.parameters()],
    )


@HOOKS.register_module()
class TimeEpochsHook(Hook):
    """Times each epoch, and one of a bare loop before it."""

    priority = 'LOWEST'

    def __init__(self):
        self.seconds = dict(ours=[], bare=[])
        self.bare = None

    def before_train_epoch(self, runner):
        if self.bare is None:
            self.bare = BareLoop(runner)
        start = time.process_time()
        self.bare.epoch()
        self.start = time.process_time()
        self.seconds['bare'].append(self.start - start)

    def after_train_epoch(self, runner):
        self.seconds['ours'].append(time.process_time() - self.start)


class BareLoop:
    """The same training in torch alone: shuffle, take rows, step."""

    def __init__(self, runner):
        loader, model = runner.train_dataloader, copy.deepcopy(runner.model)
        self.features, self.labels = loader.features[0], torch.cat(loader.labels)
        self.batch_size, self.count = loader.batch_size, len(loader)
        self.head = torch.nn.Sequential(*([model.neck] if model.neck else []), Last(model.head))
        self.head.train()
        self.optimizer = torch.optim.SGD(
            list(self.head.parameters()), lr=0.01, momentum=0.9, weight_decay=1e-3
        )

    def epoch(self):
        order = torch.randperm(len(self.features))
        for rows in order.split(self.batch_size)[: self.count]:
            scores = self.head(self.features[rows])
            loss = torch.nn.functional.cross_entropy(scores, self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Last(torch.nn.Module):
    """The last layer of a LinearClsHead, after a neck that may give a tuple."""

    def __init__(self, head):
        super().__init__()
        self.fc = head.fc

    def forward(self, features):
        return self.fc(features[-1] if isinstance(features, tuple) else features)


def time_head(args, batch_size, work_dir):
    cfg = make_config(args, CACHED, work_dir, batch_size, args.head_epochs + 2)
    cfg.train_cfg.cache_dir = str(Path(work_dir, 'cache'))
    cfg.custom_hooks.append(dict(type='TimeEpochsHook'))
    runner = Runner.from_cfg(cfg)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, TimeEpochsHook))
    iterations = len(runner.train_dataloader)
    ours, bare = (
        [value / iterations for value in hook.seconds[way][2:]] for way in ('ours', 'bare')
    )
    return harness.line(
        f'head-only iteration of {batch_size} images, against a bare loop (one thread)', ours, bare
    )


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    result = dict(epochs=args.epochs, batch_size=args.batch_size, head=args.head, lines=[])
    with tempfile.TemporaryDirectory() as folder:
        if not args.skip_plain:
            runs = {way: train(args, way, Path(folder, way)) for way in (CACHED, PLAIN)}
            heads = [run.pop('head') for run in runs.values()]
            result['lines'].append(
                harness.line(
                    f'{args.epochs} epochs of feature extraction, {runs[PLAIN]["images"]:,} images',
                    runs[CACHED]['seconds'],
                    runs[PLAIN]['seconds'],
                    's',
                    1.0,
                )
            )
            result.update(
                runs=runs,
                times_faster=runs[PLAIN]['seconds'] / runs[CACHED]['seconds'],
                accuracy_difference=runs[CACHED]['accuracy'] - runs[PLAIN]['accuracy'],
                largest_weight_difference=max(
                    float((one - other).abs().max()) for one, other in zip(*heads)
                ),
            )
        torch.set_num_threads(1)  # so that the time of the process tells of its work
        result['lines'] += [
            time_head(args, size, Path(folder, 'head')) for size in args.head_batch_sizes
        ]
    harness.write(result, args)


if __name__ == '__main__':
    main()
