"""Run the tests in fresh environments of both stacks; `tools/test_stacks.sh` says how to call it.

It runs before anything is installed, so that it takes nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'tests' / 'stacks.json'
README = ROOT / 'README.md'
ENVIRONMENTS_FOLDER = ROOT / 'work_dirs' / 'stacks'
BEGIN = '<!-- stacks: begin, written by bash tools/test_stacks.sh -->\n'
END = '<!-- stacks: end -->'
NEEDS = runpy.run_path(str(ROOT / 'tl_plugin' / '_requirements.py'))
SHOWN = ('mmengine', 'mmpretrain', 'mmcv', 'torch', 'timm', 'numpy', 'setuptools')
#: Module -> the distributions that may bring it.
DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
}
#: A suite that takes longer hangs.
TIME_LIMIT = 5400


@dataclass(frozen=True)
class Environment:
    """What an environment is made of, and how much runs in it."""

    stack: str
    python: str
    versions: str = 'newest'
    suite: str = 'subset'

    @property
    def name(self) -> str:
        """Return what a command line calls it."""
        return f'{self.stack}-{self.python}-{self.versions}'


ENVIRONMENTS = (
    Environment('openmmlab', '3.11', suite='whole'),
    Environment('onedl', '3.11', suite='whole'),
    Environment('openmmlab', '3.9', 'oldest'),
    Environment('onedl', '3.10', 'oldest'),
    *(Environment('openmmlab', python) for python in ('3.9', '3.10', '3.12', '3.13', '3.14')),
    *(Environment('onedl', python) for python in ('3.10', '3.12', '3.13', '3.14')),
)


def main() -> None:
    """Run what the command line names, or print the table."""
    args = parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if args.markdown:
        print(table(results), end='')
        return
    for environment in ENVIRONMENTS:
        name = environment.name
        if name not in args.names if args.names else name in results and not args.again:
            continue
        whole = environment.suite == 'whole' and not args.subset
        print(f'==> {name}', flush=True)
        results[name] = examine(environment, whole, args.keep)
        write(RESULTS, json.dumps({e.name: results[e.name] for e in known(results)}, indent=2))
        print(f'    {outcome(results[name])}', flush=True)
    write_table(results)
    sys.exit(any(row.get('failed') for row in results.values()))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    names = [environment.name for environment in ENVIRONMENTS]
    parser = argparse.ArgumentParser(prog='test_stacks.sh', description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'one of {", ".join(names)}')
    parser.add_argument('--again', action='store_true', help='also what has a result')
    parser.add_argument('--subset', action='store_true', help='the whole suite nowhere')
    parser.add_argument('--keep', action='store_true', help='keep the environments')
    parser.add_argument('--markdown', action='store_true', help='print the table alone')
    args = parser.parse_args()
    if wrong := set(args.names) - set(names):
        parser.error(f'there is no {", ".join(sorted(wrong))}; there are {", ".join(names)}')
    return args


def known(results: dict) -> list[Environment]:
    """Return the environments that have a result, in their order."""
    return [environment for environment in ENVIRONMENTS if environment.name in results]


def examine(environment: Environment, whole: bool, keep: bool = False) -> dict:
    """Make an environment, run the tests in it and remove it.

    Args:
        environment: Which one.
        whole: Whether the whole suite runs, or what ``-m stack`` selects.
        keep: Whether the environment stays.

    Returns:
        A row of the results: versions and counts of tests, or under ``error`` why there are none.
    """
    folder = ENVIRONMENTS_FOLDER / environment.name
    log = folder.with_name(f'{environment.name}.log')
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text('')
    row = dict(stack=environment.stack, python=environment.python, versions=environment.versions)
    row.update(suite='whole' if whole else 'subset', commit=commit())
    started = time.monotonic()
    try:
        python = make(environment, folder, log)
        row.update(python=ask(python, 'import platform; print(platform.python_version())'))
        row.update(install_seconds=round(time.monotonic() - started), modules=modules(python))
        started = time.monotonic()
        row.update(run_tests(environment, python, whole, log))
        row.update(test_seconds=round(time.monotonic() - started))
    except Unfit as error:
        row.update(error=str(error))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return row


class Unfit(Exception):
    """An environment can't be made here, or runs no test; says why."""


def make(environment: Environment, folder: Path, log: Path) -> Path:
    """Install a stack into a new environment, as ``run_tests.sh`` does; return its Python."""
    base = find_python(environment.python)
    if base is None:
        raise Unfit(f'there is no Python {environment.python} here')
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / 'bin' / 'python'
    call([base, '-m', 'venv', folder], log)
    # Old releases of pip take very long to find a set of old releases.
    call([python, '-m', 'pip', 'install', '-q', '-U', 'pip'], log)
    env = {}
    if environment.versions == 'oldest':
        constraints = log.with_suffix('.txt')
        constraints.write_text('\n'.join(oldest(environment.stack)))
        env['PIP_CONSTRAINT'] = str(constraints)
    setup = ROOT / 'tools' / 'setup_env.sh'
    call(['bash', setup, 'lite,test', *which(environment, python)], log, **env)
    return python


def which(environment: Environment, python: Path) -> list[str | Path]:
    """Return the arguments of the scripts that choose an environment."""
    return ['--here', '--python', python, '--stack', environment.stack]


def find_python(version: str) -> str | None:
    """Find a Python of a minor version, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')) / 'versions'
    found = [str(path) for path in sorted(pyenv.glob(f'{version}.*/bin/python'))]
    check = f'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "{version}")'
    for program in (shutil.which(f'python{version}'), *reversed(found)):
        if program and not subprocess.run([program, '-c', check], capture_output=True).returncode:
            return program
    return None


def oldest(stack: str) -> list[str]:
    """Pin everything that the package and a stack need to the oldest release that they name."""
    lines = [*NEEDS['RUNTIME'], *NEEDS['STACKS'][stack], *NEEDS['LITE']]
    floors = (re.match(r'([\w.-]+)>=([\w.]+)', line) for line in lines)
    return [f'{floor[1]}=={floor[2]}' for floor in floors if floor]


def call(command: list, log: Path, **env: str) -> None:
    """Run a command, its output at the end of a log.

    Raises:
        Unfit: If it fails, with its last errors.
    """
    with log.open('a') as file:
        start = file.tell()
        code = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=TIME_LIMIT,
        ).returncode
    if code:
        text = log.read_text(errors='replace').encode()[start:].decode(errors='replace')
        raise Unfit(reason(text) or f'{command[0]} ended with {code}, see {log}')


def reason(text: str) -> str:
    """Return what pip gave as the reason of a failure, in one line."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if re.match(r'(ERROR|error|\w+Error): ', line)]
    wanted = [line for line in lines if re.match(r'(The user requested|.* depends on) ', line)]
    return ' '.join([*errors[:2], *wanted[:3]])[:400]


def ask(python: Path, code: str, *arguments: str) -> str:
    """Return what a Python prints."""
    command = [str(python), '-W', 'ignore', '-c', code, *arguments]
    return subprocess.run(command, cwd='/', capture_output=True, text=True).stdout.strip()


def modules(python: Path) -> dict[str, str]:
    """Return the versions of what matters in an environment."""
    code = (
        'import importlib.metadata as m, json; '
        'print(json.dumps({d.metadata["Name"].lower(): d.version for d in m.distributions()}))'
    )
    found = json.loads(ask(python, code))
    names = {name: DISTRIBUTIONS.get(name, (name,)) for name in SHOWN}
    pairs = (
        (name, next(filter(None, map(found.get, these)), None)) for name, these in names.items()
    )
    return {name: version for name, version in pairs if version}


def run_tests(environment: Environment, python: Path, whole: bool, log: Path) -> dict:
    """Run the suite or its subset and count.

    Raises:
        Unfit: If no test ran.
    """
    report = log.with_suffix('.xml')
    report.unlink(missing_ok=True)
    select = [] if whole else ['-m', 'stack']
    script = ROOT / 'tools' / 'run_tests.sh'
    command = ['bash', script, *which(environment, python), f'--junitxml={report}', *select]
    try:
        call(command, log)
    except Unfit:
        # Failed tests are a result.
        if not report.is_file():
            raise
    return count(report)


def count(report: Path) -> dict:
    """Count the tests of a report in pytest's XML, and name those that failed."""
    cases = list(ElementTree.parse(report).iter('testcase'))
    failed = [case for case in cases if {child.tag for child in case} & {'failure', 'error'}]
    skipped = sum(case.find('skipped') is not None for case in cases)
    if not cases:
        raise Unfit('no test ran')
    names = sorted({f'{case.get("classname")}::{case.get("name")}' for case in failed})
    return dict(passed=len(cases) - len(failed) - skipped, skipped=skipped, failed=names)


def commit() -> str:
    """Return the commit that is tested, with a + where files differ from it."""
    # What this command itself writes doesn't count.
    own = [':!tests/stacks.json', ':!README.md']
    words = (['rev-parse', '--short=12', 'HEAD'], ['status', '--porcelain', '--', '.', *own])
    try:
        head, changed = (
            subprocess.run(['git', *word], cwd=ROOT, capture_output=True, text=True).stdout.strip()
            for word in words
        )
    except OSError:
        return ''
    return head + '+' * bool(changed)


def outcome(row: dict) -> str:
    """Say in a cell what the tests of an environment gave."""
    if 'error' in row:
        return f'none: {row["error"]}'
    failed = f', **{len(row["failed"])} failed**' if row['failed'] else ''
    return f'{row["passed"]:,} passed{failed}, {row["skipped"]} skipped'


def table(results: dict) -> str:
    """Return the results as a table in Markdown."""
    heads = ['stack', 'Python', 'versions', *SHOWN, 'tests', 'outcome']
    lines = [heads, ['---'] * len(heads)]
    for environment in known(results):
        row = results[environment.name]
        found = row.get('modules', {})
        start = [row['stack'], row['python'], row['versions']]
        outcome_of_row = outcome(row).replace('|', '\\|')
        versions = [found.get(name, '') for name in SHOWN]
        lines.append([*start, *versions, row['suite'], outcome_of_row])
    commits = sorted({row['commit'] for row in results.values() if row.get('commit')})
    text = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    failures = [
        f'- {name}: {", ".join(f"`{test}`" for test in row["failed"][:9])}\n'
        for name, row in results.items()
        if row.get('failed')
    ]
    if failures:
        text += '\nFailed:\n\n' + ''.join(failures)
    return f'{text}\nMeasured at {", ".join(commits) or "no commit yet"}.\n'


def write_table(results: dict) -> None:
    """Put the table into the README, between its two marks."""
    text = README.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    if rest:
        write(README, before + BEGIN + table(results) + END + rest.partition(END)[2])


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + '.part')
    part.write_text(text if text.endswith('\n') else text + '\n', encoding='utf-8')
    part.replace(path)


if __name__ == '__main__':
    main()
