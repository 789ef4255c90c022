import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.folders import folder, make_folders, make_list
from tests.test_ladder.conftest import write_tiny
from tl_plugin.ladder.climb import Climb, Run, climb, finish
from tl_plugin.ladder.jobs import failure_reason, failure_report, make_folder, plan
from tl_plugin.ladder.launchers import arguments_of
from tl_plugin.ladder.ready_config import place
from tl_plugin.ladder.run_records import RunResult
from tl_plugin.ladder.run_rung import run_rung
from tl_plugin.ladder.selection import read_rungs, select_rungs
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.console import tool_command
from tl_plugin.reliability.files import write_json
from tl_plugin.reporting.progress import ProgressDisplay

TRACEBACK = """Traceback (most recent call last):
  File "x.py", line 3, in <module>
    raise error
{}
  what more there is to say
"""


@pytest.fixture
def job(tmp_path):
    cfg = load_config(write_tiny(tmp_path))
    return plan(cfg, [read_rungs(cfg.ladder)['source_only']], [0], tmp_path / 'work')[0]


def test_other_images_under_the_same_path_are_another_run_and_named(tmp_path):
    images = make_folders(tmp_path / 'images', 4)
    listed = make_list(tmp_path / 'train.txt', images)
    cfg = load_config(write_tiny(tmp_path))
    cfg.train_dataloader.dataset = folder(images, ann_file=str(listed))

    def planned():
        return plan(cfg, [read_rungs(cfg.ladder)['source_only']], [0], tmp_path / 'work')[0]

    before = planned()
    assert before.data.keys() == {'train_dataloader'} and make_folder(before) == ''
    write_json(before.folder / 'result.json', RunResult(before.key).to_json())
    for path in images.rglob('*.png'):
        path.touch()  # copied once more
    assert planned().key == before.key and planned().result()
    (images / 'circle' / '000.png').write_bytes(b'another image')
    keys = {before.key, planned().key}
    text = listed.read_text()
    listed.write_text(text.replace('circle/000.png 0', 'circle/000.png 1'))
    keys.add(planned().key)
    listed.write_text(''.join(text.splitlines(keepends=True)[1:]))
    now = planned()
    assert len({*keys, now.key}) == 4 and now.result() is None
    said = make_folder(now)
    assert said.startswith('other images in train_dataloader;') and 'seed_0.old' in said
    assert (now.folder.with_name('seed_0.old') / 'result.json').is_file()
    listed.unlink()  # the run says what is wrong
    assert planned().data == {} and make_folder(now) == ''


def test_a_soup_waits_for_all_its_ingredients_and_gets_their_folders(tmp_path):
    cfg = load_config(write_tiny(tmp_path))
    rungs, _ = select_rungs(read_rungs(cfg.ladder), ['dann', 'self_training', 'soup'], cfg.ladder)
    source, *adapted, soup = plan(cfg, rungs, [0], tmp_path / 'work')
    assert soup.needs == [source, *adapted] and soup.adapted == tuple(adapted)
    words = arguments_of(soup)
    first = words.index('--adapted-run') + 1
    assert words[first : first + 2] == [str(each.folder) for each in adapted]
    alone = plan(cfg, [*rungs[:2], replace(soup.rung, ingredients=['dann'])], [0], tmp_path)[-1]
    assert alone.key != soup.key


@pytest.mark.parametrize(
    ('error', 'code', 'reason'),
    [
        ('ValueError: no such thing', 1, 'ValueError: no such thing'),
        ('KeyboardInterrupt', 130, 'KeyboardInterrupt'),
        ('torch.OutOfMemoryError: CUDA out of memory.', 1, 'torch.OutOfMemoryError: CUDA out of'),
        ('no error at all', 3, 'exit code 3'),
        ('ValueError: caught', -signal.SIGKILL, 'ended by SIGKILL, the machine may be out of mem'),
        ('', -signal.SIGSEGV, 'ended by SIGSEGV'),
    ],
)
def test_what_ended_a_run_is_named(tmp_path, error, code, reason):
    log = tmp_path / 'console.log'
    log.write_text(TRACEBACK.format(error))
    assert failure_reason(code, log).startswith(reason)


def test_a_report_of_a_failure_shows_the_log_the_fix_and_the_command(job):
    make_folder(job)
    log = job.folder / 'console.log'
    log.write_text(TRACEBACK.format('torch.OutOfMemoryError: CUDA out of memory.'))
    report = failure_report(job, failure_reason(1, log))
    assert 'what more there is to say' in report
    assert '--cfg-options train_dataloader.batch_size=' in report
    assert tool_command('train.py', job.config) in report


def test_a_folder_is_kept_for_its_own_job_and_set_aside_for_another(job):
    make_folder(job)
    (job.folder / 'epoch_1.pth').touch()
    make_folder(job)
    assert (job.folder / 'epoch_1.pth').exists()
    (job.folder / 'job.json').write_text('{"key": "another"}')
    make_folder(job)
    old = job.folder.with_name('seed_0.old')
    assert not (job.folder / 'epoch_1.pth').exists()
    assert (old / 'epoch_1.pth').exists()
    (job.folder / 'job.json').unlink()  # somebody's own files, or a third config's
    (job.folder / 'notes.txt').touch()
    make_folder(job)
    assert not (job.folder / 'notes.txt').exists()
    assert (old / 'notes.txt').exists()


def test_a_process_that_dies_of_an_extra_leaves_its_result(job):
    make_folder(job)
    (job.folder / 'console.log').write_text('killed in the comparison of layers')
    run, display = Run(job, SimpleNamespace(returncode=-signal.SIGKILL)), ProgressDisplay(1)
    said = []
    display.finish = lambda label, text, failed=False: said.append(text)
    assert 'ended by SIGKILL' in finish(run, display).reason
    result = RunResult(job.key, accuracy=dict(source=50.0, target=None), seconds=3.0)
    write_json(job.folder / 'result.json', result.to_json())
    assert finish(run, display) is None
    assert said[-1].startswith('source 50.0%, target without labels in 3 s; what comes after')


def test_a_result_of_another_config_is_no_result(job):
    make_folder(job)
    result = job.folder / 'result.json'
    write_json(result, RunResult(job.key).to_json())
    assert job.result()
    write_json(result, RunResult('another').to_json())
    assert job.result() is None
    write_json(result, {**RunResult(job.key).to_json(), 'schema_version': 0})
    with pytest.raises(ValueError, match=r'result\.json has schema_version 0, .*delete the folder'):
        job.result()


def test_what_an_ended_process_left_unmeasured_is_measured_later_without_training(
    tmp_path, monkeypatch
):
    cfg = load_config(write_tiny(tmp_path))
    job = plan(cfg, [read_rungs(cfg.ladder)['source_only']], [0], tmp_path / 'work')[0]
    make_folder(job)
    place(job.ready, job.folder, None)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('tl_plugin.ladder.run_rung.expect', killed)
        with pytest.raises(KeyboardInterrupt):
            run_rung(job.folder, job.key)
    before = job.result()
    assert before.ended_early and before.accuracy['source'] is not None
    trained = Path(before.checkpoint).stat().st_mtime_ns
    assert climb([job], ProgressDisplay(1)) == ([], {})
    after = job.result()
    assert not after.ended_early and after.expected is not None
    assert (after.accuracy, after.iterations) == (before.accuracy, before.iterations)
    assert Path(after.checkpoint).stat().st_mtime_ns == trained
    assert Climb([job], ProgressDisplay(1))._settle(job), 'nothing is left to do'
