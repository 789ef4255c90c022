"""Tell torch what a cluster's launcher has told the processes that it started."""

from __future__ import annotations

import os
import subprocess

#: Launcher -> what torch asks for -> the variable that the launcher sets.
VARIABLES = {
    'pytorch': dict(RANK='RANK', WORLD_SIZE='WORLD_SIZE', LOCAL_RANK='LOCAL_RANK'),
    'slurm': dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID'),
    'mpi': dict(
        RANK='OMPI_COMM_WORLD_RANK',
        WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
        LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}
_STARTED_BY = {
    'pytorch': 'bash tools/dist_train.sh CONFIG PROCESSES',
    'slurm': 'bash tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR',
    'mpi': 'mpirun -np PROCESSES python tools/train.py CONFIG --launcher mpi',
}
_PORTS = range(15000, 25000)


def set_variables(launcher: str) -> None:
    """Set ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    An address and a port that are set already stay. Slurm's processes meet on the job's first node,
    at a port that follows from the job's number, so that two jobs on one node don't meet.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.

    Raises:
        ValueError: If this process wasn't started by the launcher, or its first node isn't known.
    """
    given = VARIABLES[launcher]
    missing = [theirs for theirs in given.values() if not os.environ.get(theirs, '').isdigit()]
    if missing:
        raise ValueError(
            f'--launcher {launcher}: {", ".join(missing)} '
            f'{"is" if len(missing) == 1 else "are"} not set, so this process was not started by '
            f'it. Start the run with `{_STARTED_BY[launcher]}`, or leave --launcher out for a '
            'single process'
        )
    os.environ.update({ours: os.environ[theirs] for ours, theirs in given.items()})
    if launcher == 'slurm':
        if 'MASTER_ADDR' not in os.environ:
            os.environ['MASTER_ADDR'] = _first_node()
        job = int(os.environ.get('SLURM_JOB_ID') or 0)
        os.environ.setdefault('MASTER_PORT', str(_PORTS[job % len(_PORTS)]))
    elif launcher == 'mpi':
        os.environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in os.environ:
            raise ValueError(
                '--launcher mpi: set MASTER_ADDR to the machine of rank 0 (127.0.0.1 where there '
                'is one machine): mpirun -x MASTER_ADDR=... '
            )


def _first_node() -> str:
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST', '')
    try:
        command = ['scontrol', 'show', 'hostnames', nodes]
        found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        found = []
    # A plain name needs no scontrol, which isn't on every node.
    plain = nodes.split(',')[0]
    if not found and plain and '[' not in plain:
        found = [plain]
    if not found:
        raise ValueError(
            f'--launcher slurm: the first of the nodes {nodes!r} is not known, since `scontrol` '
            'does not say: set MASTER_ADDR to its name'
        )
    return found[0]
