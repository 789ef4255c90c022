"""Kills training runs with SIGKILL at random moments and checks that none of them lost anything.

Each trial starts a run on the embedded digits, with random augmentation, mixup, EMA and a
checkpoint every second iteration, kills it (a third of the time while a checkpoint is being
written), looks whether every checkpoint file can be read, resumes it with `--resume`, and compares
all tensors of the last checkpoint with those of a run that was never killed. Writes JSON.

    python tools/benchmarks/kill_test.py --out kill_test.json
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mmengine.runner.runner as runner_module
import sklearn.datasets  # noqa: F401  once, before the runs are forked
import torch
from mmpretrain.utils import register_all_modules

import tl_plugin.datasets
import tl_plugin.engine
import tl_plugin.models  # noqa: F401
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.reliability.checkpoints import (
    BrokenCheckpointError,
    newest_whole_checkpoint,
    read_whole,
)
from tl_plugin.strategies import configs_dir

STRATEGIES = ('fine_tune', 'gradual_unfreeze', 'dann')
#: Thin and short: what is tested is where a run is, not how well it learns.
OPTIONS = {
    'model.backbone.stem_channels': 4,
    'model.backbone.base_channels': 4,
    'model.head.in_channels': 32,
    'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)]),
    'train_dataloader.batch_size': 8,
    'train_dataloader.dataset.indices': 40,
    'val_dataloader.dataset.indices': 20,
    'val_cfg': dict(type='ValLoop', _delete_=True),
    'train_cfg.max_epochs': 4,
    'train_cfg.val_interval': 1,
    'default_hooks.checkpoint': dict(
        type='CheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=2, save_best='auto'
    ),
    'default_hooks.logger.interval': 1,
    'log_level': 'INFO',
    'randomness': dict(seed=0),
}
OF_DANN = {
    'train_cfg.target_dataloader': dict(dataset=dict(quality='field', split='train', indices=28))
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=30, help='in all, shared among strategies')
    parser.add_argument('--strategies', nargs='+', default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--out', type=Path, help='JSON file; printed in any case')
    return parser.parse_args()


def train(strategy, folder):
    """Run `tools/train.py CONFIG --strategy STRATEGY --resume` in a process of its own."""
    options = {**OPTIONS, **(OF_DANN if strategy == 'dann' else {})}
    config = configs_dir() / 'digits' / 'source_only.py'
    cfg = load_config(config, [strategy], options)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='EMAHook', momentum=0.1)]
    vars(cfg)['_format_python_code'] = False  # takes longer than training here
    build_runner(prepare(cfg, work_dir=folder, resume='auto')).train()


def child(strategy, folder):
    os.setsid()
    torch.set_num_threads(1)
    with (folder / 'console.log').open('ab', buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            train(strategy, folder)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
    os._exit(0)


def start(strategy, folder):
    folder.mkdir(parents=True, exist_ok=True)
    # Forked, so that it starts in milliseconds: importing takes longer than training here.
    process = multiprocessing.get_context('fork').Process(target=child, args=(strategy, folder))
    process.start()
    return process


def finish(strategy, folder):
    """Trains to the end; returns the seconds to the first checkpoint and to the end."""
    began, first = time.monotonic(), None
    process = start(strategy, folder)
    while process.is_alive():
        if first is None and (folder / 'last_checkpoint').exists():
            first = time.monotonic() - began
        time.sleep(0.01)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError((folder / 'console.log').read_text()[-3000:])
    return first or 0.0, time.monotonic() - began


def final_tensors(folder):
    """All tensors of the last checkpoint, by where they are in it."""
    path = (folder / 'last_checkpoint').read_text()
    content = torch.load(path, weights_only=True)
    parts = ('state_dict', 'ema_state_dict', 'optimizer')
    return dict(pair for part in parts for pair in leaves(content[part], part))


def leaves(value, name):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f'{name}.{key}')
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from leaves(item, f'{name}.{key}')


def kill(process, folder, moment, at_write):
    """Kills at a moment, or in the write of a checkpoint that follows it.

    Returns the seconds it lived, or None if it was over before.
    """
    began = time.monotonic()
    while process.is_alive():
        waited = time.monotonic() - began
        if waited >= moment and (not at_write or any(folder.glob('.*.pth.*.partial'))):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0 if at_write else 0.001)
    process.join()
    return round(waited, 3) if process.exitcode == -signal.SIGKILL else None


def unreadable(folder):
    bad = []
    for path in folder.glob('*.pth'):
        try:
            read_whole(path)
        except BrokenCheckpointError as error:
            bad.append(str(error))
    return bad


def trial(strategy, folder, reference, moment, at_write):
    lived = kill(start(strategy, folder), folder, moment, at_write)
    if lived is None:
        return None  # it had ended already
    during_write = any(folder.glob('.*.partial'))
    bad = unreadable(folder)
    found = newest_whole_checkpoint(folder)
    finish(strategy, folder)
    final = final_tensors(folder)
    differing = [name for name in reference if not torch.equal(reference[name], final[name])]
    return {
        'strategy': strategy,
        'killed_after_seconds': lived,
        'during_write': during_write,
        'resumed_from': found.name if found else None,
        'unreadable': bad,
        'tensors': len(reference),
        'differing': differing,
        'bit_equal': set(final) == set(reference) and not differing,
        'leftovers': [path.name for path in folder.glob('.*.partial')],
    }


def run(args, root):
    dice = random.Random(args.seed)
    trials, seconds, references = [], {}, {}
    for strategy in args.strategies:
        seconds[strategy] = finish(strategy, root / strategy / 'whole')
        references[strategy] = final_tensors(root / strategy / 'whole')
    while len(trials) < args.kills:
        strategy = args.strategies[len(trials) % len(args.strategies)]
        first, end = seconds[strategy]
        moment = dice.uniform(0.8 * first, end)
        at_write = (len(trials) // len(args.strategies)) % 3 == 0
        folder = root / strategy / f'trial_{dice.getrandbits(32):08x}'
        found = trial(strategy, folder, references[strategy], moment, at_write)
        if found:
            trials.append(found)
            state = 'equal' if found['bit_equal'] else 'DIFFERS'
            print(f'{len(trials)}: {strategy}, {found["resumed_from"]}, {state}', file=sys.stderr)
    return {
        'kills': len(trials),
        'during_write': sum(t['during_write'] for t in trials),
        'resumed_in_mid_run': sum(t['resumed_from'] is not None for t in trials),
        'bit_equal': sum(t['bit_equal'] for t in trials),
        'unreadable_files': sum(len(t['unreadable']) for t in trials),
        'seconds_of_a_whole_run': {name: round(end, 2) for name, (_, end) in seconds.items()},
        'trials': trials,
    }


def main():
    args = parse_args()
    torch.set_num_threads(1)
    register_all_modules()
    # Asks compilers for their versions, in each run for seconds.
    environment = runner_module.collect_env()
    runner_module.collect_env = lambda: dict(environment)
    with tempfile.TemporaryDirectory() as folder:
        result = run(args, Path(folder))
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + '\n')
    print(text)
    good = result['bit_equal'] == result['kills'] and not result['unreadable_files']
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
