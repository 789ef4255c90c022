"""What all benchmarks share: the package on the path, timing in turn, and JSON that says where."""

import json
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import tl_plugin  # noqa: F401


def add_out(parser):
    """Add the option that all benchmarks have."""
    parser.add_argument('--out', type=Path, help='JSON file; printed in any case')


def add_device(parser):
    """Add the option of those that a GPU may run."""
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cuda or cpu')


def clock_of(device):
    """Return what tells the time of work on a device: on a GPU, once it has done all of it."""
    if not str(device).startswith('cuda'):
        return time.process_time

    def clock():
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def peak_memory(function):
    """Return how many bytes of a GPU a call takes, beyond those that are taken before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def in_turn(functions, steps, warmup=2, clock=time.process_time):
    """Time functions in turn, so that other load on the machine affects all alike.

    Args:
        functions: Name -> what to call.
        steps: So many timed calls of each.
        warmup: So many before them.
        clock: The time that this process has computed for, ``time.perf_counter`` where others
            work for it, or :func:`clock_of` a device.

    Returns:
        Name -> seconds of each call.
    """
    seconds = {name: [] for name in functions}
    for step in range(warmup + steps):
        names = list(functions)
        # Who comes after whom changes, for each finds the memory as the last one left it.
        for name in names[step % len(names) :] + names[: step % len(names)]:
            start = clock()
            functions[name]()
            if step >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def line(what, ours, plain, unit='ms', scale=1000.0):
    """One line of the table: ours against the plain way.

    Args:
        what: Is compared.
        ours: Values of ours, or one.
        plain: Of the plain way, taken in turn.
        unit: Of both, after scaling.
        scale: What values are multiplied by.

    Returns:
        Medians and their ratio. With times, also the median of the ratios turn by turn, which a
        machine that is now slow, now fast disturbs least.
    """
    ours, plain = (list(v) if isinstance(v, (list, tuple)) else [v] for v in (ours, plain))
    medians = [statistics.median(values) for values in (ours, plain)]
    ratios = [one / other for one, other in zip(ours, plain)]
    return dict(
        what=what,
        ours=scale * medians[0],
        plain=scale * medians[1],
        unit=unit,
        ratio=medians[0] / medians[1],
        ratio_in_turn=statistics.median(ratios),
    )


def write(result, args):
    """Print a result, and write it, with the command and the machine."""
    name = Path(sys.argv[0]).stem
    options = list(sys.argv[1:])
    if '--out' in options:
        del options[options.index('--out') : options.index('--out') + 2]
    result = dict(
        benchmark=name,
        command=shlex.join(['python', f'tools/benchmarks/{name}.py', *options]),
        machine=f'{platform.machine()}, {os.cpu_count()} cores',
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1),
        **result,
    )
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + '\n', encoding='utf-8')
