import json
import time

from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.toy import toy_config
from tl_plugin.ladder.progress import Progress, ProgressHook, read_scalars

HALFWAY = Progress('training', 30, 60, 2, 4, 0.5, 12.0, 9.0, 11.6)


def test_progress_in_words():
    assert Progress().in_words() == 'starting'
    assert HALFWAY.in_words() == 'epoch 2/4, loss 0.500, 12 s left'
    assert HALFWAY._replace(epoch=0, max_epochs=0).in_words().startswith('iteration 30/60, ')
    assert HALFWAY._replace(phase='testing').in_words() == 'testing'


def write(folder, name, records):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def test_a_resumed_run_makes_one_curve(tmp_path):
    accuracy = 'target/accuracy/top1'
    first = [dict(step=10, loss=2.0), dict(step=20, loss=1.5), {'step': 1, accuracy: 30.0}]
    second = [dict(step=20, loss=1.4), dict(step=30, loss=1.0), {'step': 2, accuracy: 40.0}]
    write(tmp_path, '20260101_1', first)
    write(tmp_path, '20260101_2', second)
    training, validation = read_scalars(tmp_path)
    found = [(record['step'], record['loss']) for record in training]
    assert found == [(10, 2.0), (20, 1.4), (30, 1.0)]
    assert [record[accuracy] for record in validation] == [30.0, 40.0]


class Trained(Hook):
    """Makes the first step slow, as a cache does that it waits for."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            time.sleep(2)


def test_time_left_is_that_of_the_steps_after_the_first(tmp_path):
    cfg = toy_config(tmp_path, max_epochs=2)
    cfg.experiment_name = 'time_left'
    runner = Runner.from_cfg(cfg)
    hook = ProgressHook(tmp_path, time.time() - 5, Progress(elapsed=20.0, trained=10.0))
    runner.register_hook(hook)
    runner.register_hook(Trained())
    seen = []
    hook._write = lambda *arguments: seen.append(hook._remaining(runner.iter + 1, 6))
    hook._written = float('-inf')
    runner.train()
    assert seen[1] is None and seen[2] is not None
    assert seen[2] < 2 * 4  # and not four times the first step
    assert hook.elapsed > 25 + 2 and 12 < hook.trained < hook.elapsed - 10
