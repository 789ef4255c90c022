"""Rungs that go on at once: what starts when, what is ended, what the machine carries."""

import json
import os
import signal
import sys
import time

import pytest

from tests.forked import start_tool
from tests.test_ladder.conftest import ROOT, run_tool, write_tiny
from tl_plugin.ladder import capacity
from tl_plugin.ladder.capacity import Capacity, Usage, own_usage, runs_that_pay, threads_of_a_run
from tl_plugin.ladder.climb import climb
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.launchers import ThisMachine
from tl_plugin.ladder.limits import Limits
from tl_plugin.ladder.run_records import RunResult, time_waited
from tl_plugin.ladder.selection import read_rungs, select_rungs
from tl_plugin.ladder.warm import WarmServer
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.files import write_json
from tl_plugin.reporting.progress import ProgressDisplay

#: Rung -> target accuracy, and how many looks at it the run takes.
CLIMB = {'source_only': (50, 1), 'adabn': (60, 9), 'fine_tune': (85, 2), 'dann': (70, 4)}
LONGER = {**CLIMB, 'joint_training': (80, 3), 'self_training': (90, 5), 'interpolation': (70, 1)}


class Scripted:
    """A launcher whose runs end after so many looks at them."""

    holds_back = False

    def __init__(self, at_once, fails=()):
        self.at_once, self.fails, self.events = at_once, fails, []

    def room(self, running, usage):
        return '' if len(running) < self.at_once else None

    def start(self, job, place, waits_for):
        self.events.append(('start', job.rung.name))
        return ScriptedRun(self, job)

    def close(self, interrupted):
        self.events.append(('close', interrupted))


class ScriptedRun:
    pid = None

    def __init__(self, launcher, job):
        self.launcher, self.job, self.returncode = launcher, job, None
        self.looks = LONGER[job.rung.name][1]

    def poll(self):
        self.looks -= 1
        if self.looks <= 0 and self.returncode is None:
            self.end()
        return self.returncode

    def end(self):
        name = self.job.rung.name
        self.launcher.events.append(('end', name))
        self.returncode = int(name in self.launcher.fails)
        (self.job.folder / 'console.log').touch()
        if not self.returncode:
            accuracy = float(LONGER[name][0])
            validation = {'source/accuracy/top1': 90.0, 'target/accuracy/top1': accuracy}
            known = dict(source=90.0, target=accuracy)
            result = RunResult(self.job.key, accuracy=known, validation=validation, seconds=10.0)
            write_json(self.job.folder / 'result.json', result.to_json())

    def terminate(self):
        self.launcher.events.append(('terminate', self.job.rung.name))
        self.returncode = -signal.SIGTERM

    def wait(self):
        return self.returncode


@pytest.fixture(scope='module')
def ladder(tmp_path_factory):
    """A config and four rungs, three of which stand on the first."""
    cfg = load_config(write_tiny(tmp_path_factory.mktemp('ladder')))
    return cfg, rungs_of(cfg, list(CLIMB)[1:])


def rungs_of(cfg, names):
    return select_rungs(read_rungs(cfg.ladder), names, cfg.ladder)[0]


@pytest.fixture
def climb_tiny(ladder, tmp_path, monkeypatch):
    """Climb these rungs."""
    monkeypatch.setattr('tl_plugin.ladder.climb.POLL_SECONDS', 0)
    cfg, rungs = ladder

    def run(launcher, folder='work', seeds=(0,), names=None, **limits):
        chosen = rungs_of(cfg, names) if names else rungs
        jobs = plan(cfg, chosen, seeds, tmp_path / folder)
        with ProgressDisplay(len(jobs)) as display:
            failures, left = climb(jobs, display, Limits(**limits), launcher)
        finished = {job.rung.name for job in jobs if job.result()}
        return [(event, name) for event, name in launcher.events], finished, failures, left

    return run


def test_what_is_independent_goes_on_at_once(climb_tiny):
    events, finished, *_ = climb_tiny(Scripted(at_once=3))
    starts = [('start', name) for name in CLIMB]
    assert events[:2] == [('start', 'source_only'), ('end', 'source_only')]
    assert events[2:5] == starts[1:]
    assert finished == set(CLIMB)
    assert events[-1] == ('close', False)


@pytest.mark.parametrize('at_once', [1, 2, 3, 9])
def test_what_is_climbed_does_not_depend_on_how_many_go_on(climb_tiny, at_once):
    events, finished, failures, left = climb_tiny(Scripted(at_once), until=80)
    # dann comes after fine_tune, which is enough; adabn comes before, and goes on to its end.
    assert finished == {'source_only', 'adabn', 'fine_tune'}
    assert list(left) == ['dann'] and 'fine_tune reaches the 80%' in left['dann']
    assert (('terminate', 'dann') in events) == (at_once >= 3) and not failures


IN_ORDER = ['source_only', 'adabn', 'fine_tune', 'joint_training', 'dann', 'self_training']


@pytest.mark.parametrize(
    ('at_once', 'limits', 'order'),
    [
        (1, {}, [*IN_ORDER, 'interpolation']),
        # Two epochs on source and target, three on both and strong views.
        (3, {}, [*IN_ORDER[:3], 'self_training', 'dann', 'joint_training', 'interpolation']),
        # Where the climb may end early, the cheap ones come first.
        (3, dict(until=99), [*IN_ORDER, 'interpolation']),
    ],
)
def test_beside_others_the_longest_begins_first(climb_tiny, at_once, limits, order):
    events, finished, *_ = climb_tiny(Scripted(at_once), names=list(LONGER), **limits)
    assert [name for event, name in events if event == 'start'] == order
    assert finished == set(LONGER)


def test_a_budget_of_time_ends_no_run(climb_tiny):
    events, finished, _, left = climb_tiny(Scripted(at_once=2), budget_time=0)
    assert not finished and set(left) == set(CLIMB)
    events, finished, _, left = climb_tiny(Scripted(at_once=2), 'again', budget_time=1e6)
    assert finished == set(CLIMB) and not left
    assert not any(event == 'terminate' for event, _ in events)


def test_a_failure_takes_along_only_what_starts_from_it(climb_tiny):
    _, finished, failures, _ = climb_tiny(Scripted(at_once=2, fails=['fine_tune']))
    assert finished == {'source_only', 'adabn', 'dann'}
    assert [failure.name for failure in failures] == ['fine_tune']


def test_an_interrupt_ends_all_runs(climb_tiny):
    launcher = Scripted(at_once=3)
    poll = ScriptedRun.poll

    def interrupted(run):
        if run.job.rung.name == 'dann':
            raise KeyboardInterrupt
        return poll(run)

    launcher.start = lambda job, place, waits_for: type(
        'Run', (ScriptedRun,), dict(poll=interrupted)
    )(launcher, job)
    with pytest.raises(KeyboardInterrupt):
        climb_tiny(launcher)
    ended = {name for event, name in launcher.events if event == 'terminate'}
    assert ended == {'adabn', 'fine_tune', 'dann'}
    assert launcher.events[-1] == ('close', True)


def test_a_further_run_starts_only_where_it_pays(monkeypatch):
    run = Usage(cores=1.0, memory=2**30)
    monkeypatch.setattr(capacity, 'cores', lambda: 4)
    monkeypatch.setattr(capacity, '_resident', lambda process: 2**30)
    state = dict(load=1.0, free=2**34)
    monkeypatch.setattr(capacity, '_load', lambda: state['load'])
    monkeypatch.setattr(capacity, 'free_memory', lambda: state['free'])
    clock = dict(now=0.0)
    monkeypatch.setattr(capacity.time, 'monotonic', lambda: clock['now'])
    auto = Capacity()
    assert auto.allows([], None)  # the first one always starts
    clock['now'] = 600.0  # long ago: the load is the run's own
    assert not auto.allows([1], None)  # and is alone until it has been measured
    assert auto.allows([1], run) and auto.allows([1, 2, 3], run)
    assert not auto.allows([1, 2, 3, 4], run)
    state['load'] = 4.0  # three of them are another program's
    assert not auto.allows([1], run)
    auto.allows([1, 2, 3], run)
    clock['now'] = 1200.0  # by now all four are its own, and still are when two have just ended
    assert auto.allows([1, 2], run)
    auto.allows([], run)
    clock['now'] = 1800.0  # three are somebody else's again
    assert not auto.allows([1, 2], run)
    state.update(load=1.0, free=2**30)  # the reserve would be missing
    assert not auto.allows([1], run)
    state['free'] = 2**31
    assert auto.allows([1], run)
    monkeypatch.setattr(capacity, '_resident', lambda process: 0)  # has yet to take its memory
    assert not auto.allows([1], run)
    assert Capacity(2).allows([1], None) and not Capacity(2).allows([1, 2], None)


def test_runs_that_use_all_cores_are_not_put_side_by_side():
    assert runs_that_pay(Usage(4.0, 0), 4, 0.0, running=1) == 1
    assert runs_that_pay(Usage(2.5, 0), 4, 0.0, running=1) == 2


def test_usage_is_measured():
    began = time.perf_counter()
    block = bytearray(os.urandom(1) * 2**26)
    while time.perf_counter() - began < 0.2:
        sum(range(1000))
    found = own_usage(time.perf_counter() - began + 1e3)
    assert found.memory > len(block)
    assert 0 < found.cores < 1


def test_threads_do_not_depend_on_jobs(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    for cores, threads in {1: 1, 2: 1, 4: 2, 8: 4, 64: 4}.items():
        monkeypatch.setattr(capacity, 'cores', lambda cores=cores: cores)
        assert threads_of_a_run() == threads
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert threads_of_a_run() is None


def test_time_that_was_waited():
    def ended(second, seconds):
        return RunResult('key', seconds=seconds, finished=f'2026-01-01T12:00:{second:02d}+00:00')

    assert time_waited([]) == 0
    assert time_waited([ended(10, 10), ended(8, 4)]) == 10  # one within the other
    assert time_waited([ended(40, 5), ended(10, 10)]) == 15  # with a pause between them
    assert time_waited([ended(10, 10), RunResult('old', seconds=3.0)]) == 13


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (dict(jobs=0), '--jobs must be auto or at least 1, got 0'),
        (dict(devices=['0'], gpus_per_rung=2), 'needs as many GPUs, and there is 1'),
        (dict(gpus_per_rung=2), 'there are 0'),
    ],
)
def test_what_the_machine_cannot_do_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        ThisMachine(**arguments)


def test_gpus_are_dealt_out_in_groups():
    machine = ThisMachine(['0', '1', '2', '3', '4'], gpus_per_rung=2)
    taken = []
    while (place := machine.room(taken, None)) is not None:
        taken.append(type('Run', (), dict(place=place)))
    assert [run.place for run in taken] == ['0,1', '2,3']


def test_a_forked_run_is_like_a_started_one(tmp_path, monkeypatch):
    """Its exit code, output and end by a signal; nothing outlives the server."""
    (tmp_path / 'stand_in.py').write_text(
        'import os, sys, time\n'
        'def main():\n'
        '    what = sys.argv[1]\n'
        '    print("at", os.getpid(), what, flush=True)\n'
        '    if what == "fail": raise ValueError("as it should")\n'
        '    if what == "exit": sys.exit(7)\n'
        '    if what == "sleep": time.sleep(60)\n'
    )
    (tmp_path / 'serve.py').write_text(
        'from tl_plugin.ladder import warm\n'
        'warm._MODULE, warm._PRELOAD = "stand_in", ("stand_in",)\n'
        'warm.main()\n'
    )
    monkeypatch.setattr('tl_plugin.ladder.warm.COMMAND', [sys.executable, tmp_path / 'serve.py'])
    path = os.pathsep.join([str(tmp_path), *sys.path])
    server = WarmServer({**os.environ, 'PYTHONPATH': path})
    runs = {what: server.start([what], tmp_path / what) for what in ('work', 'fail', 'exit')}
    assert {what: run.wait() for what, run in runs.items()} == dict(work=0, fail=1, exit=7)
    assert (tmp_path / 'work').read_text() == f'at {runs["work"].pid} work\n'
    assert 'ValueError: as it should' in (tmp_path / 'fail').read_text()
    ended, left = (server.start(['sleep'], tmp_path / name) for name in ('ended', 'left'))
    while not (tmp_path / 'left').is_file() or not (tmp_path / 'left').read_text():
        left.poll()
        time.sleep(0.01)
    ended.terminate()
    assert ended.wait() == -signal.SIGTERM
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(left.pid, 0)


def test_a_killed_ladder_leaves_no_run_behind(tmp_path):
    work = tmp_path / 'work'
    long = 'train_cfg = dict(max_epochs=500)\nparam_scheduler = dict(T_max=500)\n'
    config = write_tiny(tmp_path, long)
    arguments = [config, '--work-dir', work, '--rungs', 'source_only', '--jobs', '2']
    process = start_tool(ROOT / 'tools' / 'ladder.py', *arguments, log=tmp_path / 'log')
    progress = work / 'source_only' / 'seed_0' / 'progress.json'
    deadline = time.monotonic() + 200
    while not progress.is_file() or json.loads(progress.read_text())['iteration'] < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline, seen = time.monotonic() + 60, None
    while (now := progress.read_text()) != seen:
        assert time.monotonic() < deadline
        seen = now
        time.sleep(1.5)  # written twice a second


@pytest.mark.slow
def test_two_processes_train_a_rung_together(tmp_path):
    """On CPUs here, joined by gloo; on GPUs by NCCL."""
    work = tmp_path / 'work'
    arguments = ['--devices', '0', '1', '--gpus-per-rung', '2', '--rungs', 'adabn']
    code, output = run_tool(write_tiny(tmp_path), '--work-dir', work, *arguments)
    assert code == 0, output
    results = json.loads((work / 'results.json').read_text())
    assert [rung['name'] for rung in results['rungs']] == ['source_only', 'adabn']
    assert [rung['iterations'] for rung in results['rungs']] == [8, 0]  # as one process takes
    assert all(rung['domains']['target']['images'] == 30 for rung in results['rungs'])
    log = (work / 'source_only' / 'seed_0' / 'console.log').read_text()
    assert 'Distributed training: True' in log and 'GPU number: 2' in log
