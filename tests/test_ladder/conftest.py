"""A ladder whose runs take seconds, climbed once for all tests that look at what came of it."""

import json
from pathlib import Path

import pytest

from tests import forked
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.records import FailedRun
from tl_plugin.ladder.results import collect
from tl_plugin.ladder.run_records import KeptLayers, RunResult
from tl_plugin.ladder.selection import read_rungs, select_rungs
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.files import write_json

ROOT = Path(__file__).resolve().parents[2]

RUNGS = [
    'source_only',
    'adabn',
    'feature_extraction',
    'fine_tune',
    'joint_training',
    'dann',
    'self_training',
    'interpolation',
]

TINY = f"""
_base_ = {str(ROOT / 'configs' / 'digits' / 'ladder.py')!r}
model = dict(
    backbone=dict(stem_channels=4, base_channels=4), head=dict(in_channels=32)
)
train_dataloader = dict(dataset=dict(indices=32), batch_size=8)
val_dataloader = dict(dataset=dict(indices=20))
test_dataloader = dict(dataset=dict(indices=30))
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = dict(T_max=2)
default_hooks = dict(checkpoint=dict(interval=1))
ladder = dict(
    target_dataloader=dict(dataset=dict(indices=32)),
    labelled_target_dataloader=dict(batch_size=8),
    rungs=dict(
        feature_extraction=dict(options=dict(_delete_=True)),
        fine_tune=dict(options=dict(_delete_=True)),
        dann=dict(options=dict(train_cfg=dict(max_epochs=2), param_scheduler=dict(T_max=2))),
        # Fitting corruptions takes no time when they are given.
        self_training=dict(
            options=dict(custom_hooks={{'1': dict(corruptions=dict(noise=dict(severity=2.0)))}})
        ),
    ),
)
"""


def write_tiny(folder, extra=''):
    """Write the tiny ladder's config, with more lines at its end."""
    path = Path(folder) / 'tiny.py'
    path.write_text(TINY + extra)
    return path


def run_tool(*arguments, tool='ladder.py'):
    """Run it to its end; returns exit code and output."""
    return forked.run_tool(ROOT / 'tools' / tool, *arguments)


class Climbed:
    """A finished climb."""

    def __init__(self, config, work_dir, output):
        self.config, self.work_dir, self.output = config, work_dir, output

    @property
    def results(self):
        return json.loads((self.work_dir / 'results.json').read_text())


@pytest.fixture(scope='session')
def climbed(tmp_path_factory):
    """Rungs of every kind with one seed, through the tool."""
    folder = tmp_path_factory.mktemp('ladder')
    config = write_tiny(folder)
    # The first one comes by itself: the others start from it.
    arguments = ['--work-dir', folder / 'work', '--jobs', '2', '--rungs', *RUNGS[1:]]
    code, output = run_tool(config, *arguments)
    assert code == 0, output
    return Climbed(config, folder / 'work', output)


#: Rung -> accuracy on source and target of each seed.
ACCURACY = {'source_only': [(98, 50), (97, 54), (99, 49)], 'fine_tune': [(90, 75), (92, 70)]}


@pytest.fixture
def tiny_rungs(tmp_path):
    """The tiny ladder's config, and two of its rungs."""
    cfg = load_config(write_tiny(tmp_path))
    return cfg, select_rungs(read_rungs(cfg.ladder), list(ACCURACY), cfg.ladder)[0]


@pytest.fixture
def results(tiny_rungs, tmp_path):
    """Two rungs of three seeds whose results are written by hand; the last one is missing."""
    jobs = plan(*tiny_rungs, [0, 1, 2], tmp_path / 'work')
    for job in jobs:
        if job.seed >= len(ACCURACY[job.rung.name]):
            continue
        source, target = ACCURACY[job.rung.name][job.seed]
        job.folder.mkdir(parents=True)
        result = RunResult(
            key=job.key,
            accuracy=dict(source=source, target=target),
            seconds=10.0 + job.seed,
            trainable_parameters=1234,
            parameters=5678,
            epochs=2,
            iterations=8,
            checkpoint='epoch_2.pth',
            images=dict(source=200, target=100),
            labelled=dict(source=200, target=100),
            kept_layers=KeptLayers(
                layers=['stem', 'block'],
                images=dict(source=9, target=9),
                cka=dict(source=[1.0, 0.5 + 0.1 * job.seed], target=[None, 0.25]),
                cosine=dict(source=0.9, target=0.8),
                flips=dict(source=1.0, target=2.0),
                drift=dict(source=0.1, target=None),
                seconds=2.0,
            ),
            validation={'source/accuracy/top1': source - 1, 'target/accuracy/top1': target + 1},
        )
        write_json(job.folder / 'result.json', result.to_json())
    return collect(jobs, [FailedRun(*jobs[-1].id, 'ValueError: x')], 'tiny.py')
