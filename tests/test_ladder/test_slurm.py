"""Rungs as jobs of slurm, with stand-ins for its commands that keep their semantics."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.test_ladder.conftest import run_tool, write_tiny
from tl_plugin.ladder import slurm
from tl_plugin.ladder.climb import climb
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.limits import Limits
from tl_plugin.ladder.run_records import RunResult
from tl_plugin.ladder.selection import read_rungs, select_rungs
from tl_plugin.ladder.slurm import Slurm
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.files import write_json
from tl_plugin.reporting.progress import ProgressDisplay

#: A job's number is that of its files: `args`, `queued` while it waits or runs, `code` at its end.
SBATCH = r"""#!/bin/bash
cd "$STUB"
number=$((100 + $(ls | grep -c args)))
printf '%s\n' "$@" >$number.args
for argument in "$@"; do
    case $argument in
        --wrap=*) wrap=${argument#*=} ;;
        --output=*) output=${argument#*=} ;;
        --dependency=*) dependency=${argument#*=} ;;
        --partition=closed) echo "sbatch: error: invalid partition specified: closed" >&2; exit 1 ;;
    esac
done
touch $number.queued
(
    IFS=,
    for group in $dependency; do
        IFS=:
        for other in ${group#*:}; do
            until [ -f $other.code ]; do sleep 0.05; done
            if [ "${group%%:*}" = afterok ] && [ "$(cat $other.code)" != 0 ]; then
                echo 1 >$number.code # --kill-on-invalid-dep
                rm $number.queued
                exit
            fi
        done
    done
    [ -f $number.queued ] || exit
    cd "$OLDPWD"
    setsid bash -c "$wrap" >>"$output" 2>&1 &
    echo $! >"$STUB/$number.pid"
    wait $!
    echo $? >"$STUB/$number.code"
    rm -f "$STUB/$number.queued"
) >/dev/null 2>&1 </dev/null &
echo "$number;here"
"""
SQUEUE = """#!/bin/bash
[ -z "$SQUEUE_BUSY" ] || { echo "slurm_load_jobs error: Unable to contact controller" >&2; exit 1; }
ls "$STUB" | sed -n 's/.queued$//p'
"""
SCANCEL = """#!/bin/bash
for number in "$@"; do
    kill -- -"$(cat "$STUB/$number.pid")" || touch "$STUB/$number.code" # still waiting
    rm -f "$STUB/$number.queued"
done
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands first in PATH; returns the folder of their files."""
    folder, state = tmp_path / 'bin', tmp_path / 'state'
    for path in (folder, state):
        path.mkdir()
    for name, script in dict(sbatch=SBATCH, squeue=SQUEUE, scancel=SCANCEL).items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('STUB', str(state))
    monkeypatch.setattr(slurm, 'INTERVAL', 0.05)
    monkeypatch.setattr(slurm, 'GRACE', 0.3)
    return state


def submitted(state):
    """Arguments of each job, by the rung in its name."""
    jobs = [(path, path.read_text().splitlines()) for path in sorted(state.glob('*.args'))]
    name = '--job-name='
    return {
        next(line for line in lines if line.startswith(name))[len(name) : -2]: (path.stem, lines)
        for path, lines in jobs
    }


@pytest.fixture(scope='module')
def ladder(tmp_path_factory):
    """A config and four rungs, the last of which stands on the second."""
    after = "after=dict(strategies=['source_only'], start='fine_tune')"
    folder = tmp_path_factory.mktemp('ladder')
    cfg = load_config(write_tiny(folder, f'ladder = dict(rungs=dict({after}))\n'))
    names = ['source_only', 'fine_tune', 'dann', 'after']
    return cfg, select_rungs(read_rungs(cfg.ladder), names, cfg.ladder)[0], names


@pytest.fixture
def climb_there(ladder, tmp_path, monkeypatch, cluster):
    """Climb rungs whose jobs write a result that is given here, or fail without one."""
    cfg, rungs, names = ladder
    jobs = plan(cfg, rungs, [0], tmp_path / 'work')

    def run(scripts, launcher=None, **limits):
        monkeypatch.setattr(
            slurm,
            'arguments_of',
            lambda job: ['-c', scripts.get(job.rung.name, 'finish').replace('finish', finish(job))],
        )
        monkeypatch.setattr(slurm, 'torchrun', lambda processes: [])
        monkeypatch.setattr(slurm.sys, 'executable', 'bash')
        with ProgressDisplay(len(jobs)) as display:
            return climb(jobs, display, Limits(**limits), launcher or Slurm())

    def finish(job):
        accuracy = dict(source_only=50.0, fine_tune=85.0).get(job.rung.name, 60.0)
        measured = {'source/accuracy/top1': 90.0, 'target/accuracy/top1': accuracy}
        known = dict(source=90.0, target=accuracy)
        result = RunResult(job.key, accuracy=known, validation=measured, seconds=3.0)
        ready = tmp_path / f'{job.rung.name}.json'
        write_json(ready, result.to_json())
        return f'cp {ready} {job.folder}/result.json'

    return run, jobs, names


def test_jobs_wait_in_the_queue_for_what_they_stand_on(climb_there, cluster):
    run, jobs, names = climb_there
    launcher = Slurm('gpu', 'group7', gpus_per_rung=2, options=['--time=9:00'])
    failures, left = run({'source_only': 'sleep 0.3; finish'}, launcher)
    assert not failures and not left
    assert all(job.result() for job in jobs)
    found = submitted(cluster)
    assert list(found) == names  # all at once, in order
    number = {name: number for name, (number, _) in found.items()}
    dependency = {
        name: next((line for line in lines if line.startswith('--dependency=')), '')[13:]
        for name, (_, lines) in found.items()
    }
    first = number['source_only']
    assert dependency == {
        'source_only': '',
        'fine_tune': f'afterok:{first}',
        'dann': f'afterok:{first}',
        # What it is compared with needn't succeed.
        'after': f'afterok:{number["fine_tune"]},afterany:{first}',
    }
    for _, lines in found.values():
        assert {'--partition=gpu', '--account=group7', '--gres=gpu:2', '--time=9:00'} <= set(lines)


def test_what_stands_on_a_failed_job_is_dropped(climb_there, cluster):
    run, jobs, _ = climb_there
    failures, left = run({'fine_tune': 'echo "ValueError: planted"; exit 3'})
    reasons = {failure.name: failure.reason for failure in failures}
    assert reasons['fine_tune'] == 'ValueError: planted'
    assert 'it starts from fine_tune (seed 0), which failed' in reasons['after']
    assert set(reasons) == {'fine_tune', 'after'} and not left
    assert [job.rung.name for job in jobs if job.result()] == ['source_only', 'dann']


def test_what_is_not_wanted_any_more_leaves_the_queue(climb_there, cluster):
    run, *_ = climb_there
    late = dict.fromkeys(('dann', 'after'), 'sleep 60; finish')
    failures, left = run(late, until=80)
    assert not failures and set(left) == {'dann', 'after'}
    assert not list(cluster.glob('*.queued'))


def test_an_interrupted_ladder_finds_its_jobs_again(climb_there, cluster, monkeypatch, capsys):
    run, jobs, _ = climb_there

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr('tl_plugin.ladder.climb.time.sleep', interrupt)
    scripts = dict.fromkeys(('source_only', 'dann'), 'until [ -f $STUB/go ]; do :; done; finish')
    with pytest.raises(KeyboardInterrupt):
        run(scripts)
    said = capsys.readouterr().out
    assert '4 jobs stay in the queue' in said and 'scancel 100 101 102 103' in said
    assert len(list(cluster.glob('*.queued'))) == 4
    monkeypatch.setattr(
        'tl_plugin.ladder.climb.time.sleep', lambda seconds: (cluster / 'go').touch()
    )
    failures, _ = run(scripts)
    assert not failures and all(job.result() for job in jobs)
    assert len(submitted(cluster)) == 4  # nothing twice
    assert len(list(cluster.glob('*.args'))) == 4


def test_a_busy_controller_ends_no_job(cluster, monkeypatch):
    launcher = Slurm()
    (cluster / '7.queued').touch()
    assert launcher.knows('7')
    monkeypatch.setenv('SQUEUE_BUSY', 'yes')
    time.sleep(slurm.INTERVAL * 2)
    assert launcher.knows('7')


def test_a_refused_job_says_why(climb_there):
    run, *_ = climb_there
    with pytest.raises(ValueError, match=r'refused source_only.*invalid partition'):
        run({}, Slurm('closed'))


def test_no_slurm_here(monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match='no sbatch here'):
        Slurm()


@pytest.mark.slow
def test_real_rungs_give_what_they_give_here(climbed, cluster, tmp_path):
    arguments = ['--work-dir', tmp_path / 'work', '--rungs', 'adabn', 'interpolation']
    code, output = run_tool(
        climbed.config, *arguments, '--launcher', 'slurm', '--gpus-per-rung', '0'
    )
    assert code == 0, output
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    here = {rung['name']: rung['domains'] for rung in climbed.results['rungs']}
    assert len(results['rungs']) >= 3
    for rung in results['rungs']:
        for domain, found in rung['domains'].items():
            assert found['accuracy'] == here[rung['name']][domain]['accuracy'], rung['name']
    log = Path(results['rungs'][1]['folders'][0], 'console.log').read_text()
    assert 'mmengine' in log
