"""Times what the plugin adds to importing mmpretrain and to reading and building a config.

Each import runs in a Python of its own, with and without the plugin in turn. Writes JSON.

    python tools/benchmarks/import_time.py --out import_time.json
"""

import argparse
import copy
import subprocess
import sys
import time

import harness
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tl_plugin.launch.configs import config_file, load_config

STOCK = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
PLAIN_IMPORT = 'import mmpretrain'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument(
        '--strategies',
        nargs='+',
        default=['feature_extraction', 'fine_tune', 'gradual_unfreeze', 'dann'],
    )
    harness.add_out(parser)
    return parser.parse_args()


def imports(code):
    def run():
        subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)

    return run


def build(cfg):
    def run():
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return MODELS.build(copy.deepcopy(cfg.model))

    return run


def main():
    args = parse_args()
    torch.set_num_threads(1)
    MMLogger.get_instance('import_time', log_level='ERROR')
    seconds = harness.in_turn(
        dict(ours=imports(f'{PLAIN_IMPORT}, tl_plugin'), plain=imports(PLAIN_IMPORT)),
        args.repeats,
        warmup=1,
        clock=time.perf_counter,
    )
    lines = [
        harness.line(
            'import mmpretrain and tl_plugin, against mmpretrain', seconds['ours'], seconds['plain']
        )
    ]
    stock = load_config(STOCK)
    for strategy in args.strategies:
        seconds = harness.in_turn(
            dict(
                ours=lambda strategy=strategy: load_config(STOCK, [strategy]),
                plain=lambda: Config.fromfile(config_file(STOCK)),
            ),
            args.repeats,
        )
        lines.append(
            harness.line(f'read a config with {strategy}', seconds['ours'], seconds['plain'])
        )
        changed = load_config(STOCK, [strategy])
        if changed.model != stock.model:
            seconds = harness.in_turn(dict(ours=build(changed), plain=build(stock)), args.repeats)
            lines.append(
                harness.line(f'build the model of {strategy}', seconds['ours'], seconds['plain'])
            )
    harness.write(dict(config=STOCK, repeats=args.repeats, lines=lines), args)


if __name__ == '__main__':
    main()
