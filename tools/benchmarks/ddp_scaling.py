"""Measures what a second process brings, by phase of training: all layers, some, the head.

Throughput of two gloo processes against twice that of one, and the bytes that a step reduces
against those of training all weights. Each process has one thread. Writes JSON.

    python tools/benchmarks/ddp_scaling.py --out ddp_scaling.json
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import frozen_savings
import harness
import torch
import torch.distributed as dist
from mmpretrain.structures import DataSample

PHASES = {'all layers': 0, 'upper half': 7, 'head alone': 13}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--width', type=int, default=192, help='embed_dims of a 12-layer ViT')
    parser.add_argument('--batch-size', type=int, default=8, help='images of 64x64 on each rank')
    parser.add_argument('--steps', type=int, default=8, help='timed steps of each')
    parser.add_argument('--rounds', type=int, default=3, help='of one process, then two')
    harness.add_out(parser)
    return parser.parse_args()


def batch(args):
    return dict(
        inputs=torch.randn(args.batch_size, 3, 64, 64),
        data_samples=[DataSample().set_gt_label(index % 10) for index in range(args.batch_size)],
    )


def seconds_per_step(model, optim_wrapper, data, steps):
    model.train_step(data, optim_wrapper)
    start = time.perf_counter()
    for _ in range(steps):
        model.train_step(data, optim_wrapper)
    return (time.perf_counter() - start) / steps


def measure(args, rank, frozen, folder):
    """Seconds of a step alone and together, and bytes reduced."""
    runner = frozen_savings.prepare(args, frozen, frozen_savings.OURS, folder)
    reduced = frozen_savings.count_bytes(runner.model)
    data, alone, together = batch(args), [], []
    for _ in range(args.rounds):
        dist.barrier()
        if rank == 0:  # the other one waits
            alone.append(
                seconds_per_step(runner.model.module, runner.optim_wrapper, data, args.steps)
            )
        dist.barrier()
        together.append(seconds_per_step(runner.model, runner.optim_wrapper, data, args.steps))
    reduced[0] = 0
    runner.model.train_step(data, runner.optim_wrapper)
    return dict(alone=alone, together=together, reduced=reduced[0])


def work(rank, args, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    found = {name: measure(args, rank, frozen, folder) for name, frozen in PHASES.items()}
    if rank == 0:
        Path(folder, 'found.json').write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo now and then aborts while the interpreter shuts down


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Nothing has run yet in this process, so that it can be forked with its imports.
        torch.multiprocessing.start_processes(work, (args, folder), 2, start_method='fork')
        found = json.loads(Path(folder, 'found.json').read_text())
    torch.set_num_threads(1)
    lines = []
    for name, phase in found.items():
        both, one = (
            2 * args.batch_size / statistics.median(phase['together']),
            2 * args.batch_size / statistics.median(phase['alone']),
        )
        lines.append(
            harness.line(f'{name}: two processes, against twice one', both, one, 'images/s', 1.0)
        )
        lines.append(
            harness.line(
                f'{name}: bytes reduced, against all layers',
                phase['reduced'],
                found['all layers']['reduced'],
                'MB',
                1e-6,
            )
        )
    harness.write(
        dict(
            width=args.width,
            batch_size=args.batch_size,
            steps=args.steps,
            rounds=args.rounds,
            lines=lines,
        ),
        args,
    )


if __name__ == '__main__':
    main()
