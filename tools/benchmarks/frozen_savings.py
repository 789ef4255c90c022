"""Measures what a frozen trunk saves: step time and bytes between ranks, by frozen depth.

Several gloo processes train a ViT on a CPU. `set_trainable` (freeze and wrap again) is compared
with what is usual, freezing under `find_unused_parameters=True`, which reduces the frozen gradients
all the same. Writes JSON.

    python tools/benchmarks/frozen_savings.py --out frozen_savings.json
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

import tl_plugin  # noqa: F401
from tl_plugin.engine.freezing.trainable import set_trainable
from tl_plugin.engine.layers import LayerMap

OURS, USUAL = 'set_trainable', 'find_unused_parameters'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--width', type=int, default=192, help='embed_dims of the ViT')
    parser.add_argument('--batch-size', type=int, default=4, help='images of 64x64 on each rank')
    parser.add_argument('--steps', type=int, default=10, help='timed steps')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument(
        '--frozen',
        type=int,
        nargs='+',
        default=[0, 4, 7, 10, 13],
        help='numbers of frozen layers, of 14',
    )
    parser.add_argument('--out', type=Path, help='JSON file; printed in any case')
    return parser.parse_args()


def make_runner(args, work_dir, find_unused):
    arch = dict(
        embed_dims=args.width, num_layers=12, num_heads=4, feedforward_channels=4 * args.width
    )
    runner = Runner.from_cfg(
        Config(
            dict(
                default_scope='mmpretrain',
                work_dir=work_dir,
                launcher='pytorch',
                log_level='ERROR',
                experiment_name=f'savings_{time.time_ns()}',
                randomness=dict(seed=0),
                model=dict(
                    type='ImageClassifier',
                    backbone=dict(type='VisionTransformer', arch=arch, img_size=64, patch_size=8),
                    head=dict(
                        type='VisionTransformerClsHead', num_classes=10, in_channels=args.width
                    ),
                ),
                model_wrapper_cfg=dict(
                    type='MMDistributedDataParallel',
                    device_ids=None,
                    broadcast_buffers=False,
                    find_unused_parameters=find_unused,
                ),
                train_cfg=dict(by_epoch=False, max_iters=1),
                train_dataloader=dict(
                    batch_size=1, dataset=[0], sampler=dict(type='DefaultSampler')
                ),
                optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            ),
            format_python_code=False,
        )
    )  # formatting takes longer than a step
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner


def prepare(args, frozen_layers, way, work_dir):
    """Build a runner and freeze in one of the two ways."""
    runner = make_runner(args, work_dir, find_unused=way == USUAL)
    layers = LayerMap.from_model(runner.model)
    frozen = [name for depth in range(frozen_layers) for name in layers.names(depth)]
    if way == OURS:
        set_trainable(runner, frozen)
    else:
        for name, value in runner.model.module.named_parameters():
            value.requires_grad_(name not in frozen)
    runner.model.train()
    return runner


def measure(args, frozen_layers, work_dir):
    """Time the steps of both ways in turn, and count the bytes of a step."""
    runners = {way: prepare(args, frozen_layers, way, work_dir) for way in (OURS, USUAL)}
    reduced = {way: count_bytes(runner.model) for way, runner in runners.items()}
    seconds = {way: [] for way in runners}
    data = dict(
        inputs=torch.randn(args.batch_size, 3, 64, 64),
        data_samples=[DataSample().set_gt_label(index % 10) for index in range(args.batch_size)],
    )
    for step in range(args.steps + 3):
        for way, runner in runners.items():
            reduced[way][0] = 0
            dist.barrier()
            start = time.perf_counter()
            runner.model.train_step(data, runner.optim_wrapper)
            if step >= 3:  # DDP regroups the gradients after its first step
                seconds[way].append(time.perf_counter() - start)
    values = list(runners[OURS].model.module.parameters())
    return dict(
        frozen_layers=frozen_layers,
        weights=sum(value.numel() for value in values),
        frozen_weights=sum(value.numel() for value in values if not value.requires_grad),
        ways={
            way: dict(
                bytes_per_step=reduced[way][0],
                milliseconds=1000 * statistics.median(seconds[way]),
                fastest_milliseconds=1000 * min(seconds[way]),
            )
            for way in runners
        },
    )


def count_bytes(model):
    """Count what the ranks exchange in a step, in the first item of the returned list."""
    reduced = [0]

    def reduce(state, bucket):
        buffer = bucket.buffer()
        reduced[0] += buffer.numel() * buffer.element_size()
        return (
            dist.all_reduce(buffer / dist.get_world_size(), async_op=True)
            .get_future()
            .then(lambda done: done.value()[0])
        )

    model.register_comm_hook(None, reduce)
    return reduced


def work(rank, args, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(args.processes))
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=args.processes
    )
    rows = [measure(args, count, folder) for count in args.frozen]
    if rank == 0:
        Path(folder, 'rows.json').write_text(json.dumps(rows))
    dist.barrier()
    os._exit(0)  # gloo now and then aborts while the interpreter shuts down


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Nothing has run yet in this process, so that it can be forked with its imports.
        torch.multiprocessing.start_processes(
            work, (args, folder), args.processes, start_method='fork'
        )
        rows = json.loads(Path(folder, 'rows.json').read_text())
    result = dict(
        processes=args.processes,
        width=args.width,
        batch_size=args.batch_size,
        steps=args.steps,
        torch=torch.__version__,
        rows=rows,
    )
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
