"""Measures what a run of train.py costs beside training: its hooks, and what they save.

Trains ResNet-50 by DANN on small images, with the hooks that train.py adds and those of the
strategy, and times each in every iteration. Then takes the checkpoint apart. Writes JSON.

    python tools/benchmarks/run_overhead.py --out run_overhead.json
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import harness
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.checkpoints import read_whole
from tl_plugin.reliability.fault_tolerance import ADDED, make_fault_tolerant

STOCK = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
TIMES = ('before_train_iter', 'after_train_iter')
#: What stock mmengine writes; of these, the messages hold the place of a run of ours as well.
STOCK_KEYS = ('meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers')


class Noise(Dataset):
    """Images of noise, labelled at random."""

    metainfo = dict(classes=[str(index) for index in range(1000)])

    def __init__(self, count, size, domain):
        self.count, self.size, self.domain = count, size, domain

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.randint(256, (3, self.size, self.size), dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 1000))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=60, help='timed iterations')
    parser.add_argument('--size', type=int, default=32, help='of the images')
    parser.add_argument('--batch-size', type=int, default=8, help='of each domain')
    harness.add_out(parser)
    return parser.parse_args()


def config(args, work_dir):
    """Make the config that train.py would run, on noise."""
    data = dict(type=Noise, count=args.steps * args.batch_size, size=args.size, domain='source')
    cfg = load_config(STOCK, ['dann'])
    loader = dict(
        batch_size=args.batch_size,
        num_workers=0,
        dataset=data,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    cfg.train_dataloader = dict(loader, collate_fn=dict(type='default_collate'))
    cfg.train_cfg = dict(
        cfg.train_cfg, max_epochs=1, target_dataloader=dict(dataset=dict(data, domain='target'))
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks.logger.interval = 10
    cfg.work_dir, cfg.log_level, cfg.visualizer = str(work_dir), 'ERROR', None
    return make_fault_tolerant(Config(cfg.to_dict(), format_python_code=False))


def time_hooks(runner):
    """Note how long each hook computes in every iteration."""
    seconds = {type(hook).__name__: [] for hook in runner.hooks}

    def timed(hook, call, starts):
        found = seconds[type(hook).__name__]

        def run(*args, **kwargs):
            start = time.thread_time()
            call(*args, **kwargs)
            spent = time.thread_time() - start
            if starts:
                found.append(spent)
            else:
                found[-1] += spent

        return run

    for hook in runner.hooks:
        for name in TIMES:
            setattr(hook, name, timed(hook, getattr(hook, name), name == TIMES[0]))
    return seconds


def bytes_of(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell()


def main():
    args = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.from_cfg(config(args, folder))
        seconds = time_hooks(runner)
        runner.train()
        (path,) = Path(folder).glob('*.pth')
        whole = path.stat().st_size
        content = read_whole(path)
    # The first iteration compares what was loaded, and some write to the log in every tenth.
    means = {name: statistics.fmean(found[1:]) for name, found in seconds.items()}
    added = {name: means[name] for name in [*ADDED, 'AtomicCheckpointHook']}
    strategy = {'AdversaryMonitorHook': means['AdversaryMonitorHook']}
    stock = sum(means.values()) - sum(added.values()) - sum(strategy.values())
    lines = [
        harness.line(f'{name}, an iteration', value, stock)
        for name, value in sorted({**added, **strategy}.items(), key=lambda item: -item[1])
    ]
    lines.insert(
        0,
        harness.line(
            'all hooks that train.py adds, an iteration, against those of stock mmengine',
            sum(added.values()),
            stock,
        ),
    )
    own = {key: bytes_of(value) for key, value in content.items() if key not in STOCK_KEYS}
    lines.append(
        harness.line(
            'what hooks save to resume exactly, against the whole checkpoint of ResNet-50',
            sum(own.values()),
            whole,
            unit='kB',
            scale=1e-3,
        )
    )
    sizes = {key: bytes_of(value) for key, value in content.items()}
    harness.write(
        dict(
            steps=args.steps,
            milliseconds={name: 1000 * value for name, value in means.items()},
            bytes=sizes,
            lines=lines,
        ),
        args,
    )


if __name__ == '__main__':
    main()
