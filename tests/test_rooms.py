"""Imports point one way: a room knows those below it, and none beside or above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'tl_plugin'
# From the top down.
FLOORS = (
    ('ladder', 'apis'),
    ('analysis',),
    ('intake',),
    ('launch',),
    ('models',),
    ('engine',),
    ('reliability', 'evaluation'),
    ('datasets',),
    ('strategies',),
    ('functional', 'reporting', 'stack'),
    ('version', '_requirements'),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What a rung is and which rungs there are: plain data, which a written config holds, too.
PLAIN = ('tl_plugin.ladder.rungs',)


def _room(module: str) -> str:
    return module.split('.')[1] if '.' in module else ''


def imports_of(source: str) -> set[str]:
    """The modules of the package that a source imports at run time."""
    tree = ast.parse(source)
    types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, 'id', '') == 'TYPE_CHECKING'
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return {name for name in found if name.startswith('tl_plugin.')}


def wrong_imports(room: str, source: str) -> list[str]:
    """The imports of a source in a room that point beside it or up."""
    return sorted(
        name
        for name in imports_of(source)
        if _room(name) != room and FLOOR[_room(name)] <= FLOOR[room] and not name.startswith(PLAIN)
    )


@pytest.mark.parametrize(
    'room', sorted({path.name for path in PACKAGE.iterdir() if path.is_dir()} & set(FLOOR))
)
def test_a_room_imports_only_what_is_below_it(room):
    wrong = {
        path.relative_to(PACKAGE).as_posix(): found
        for path in (PACKAGE / room).rglob('*.py')
        if (found := wrong_imports(room, path.read_text(encoding='utf-8')))
    }
    assert not wrong


def test_no_module_lies_loose_and_every_room_has_a_floor():
    loose = {path.stem for path in PACKAGE.glob('*.py')}
    assert loose == {'__init__', '_requirements', 'strategies', 'version'}
    rooms = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert rooms <= set(FLOOR)


def test_upward_imports_are_found():
    assert wrong_imports('engine', 'from tl_plugin.models import X\nfrom .hooks import Y\n')
    assert wrong_imports('evaluation', 'from tl_plugin.reliability.files import write\n')
    lazy = (
        'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tl_plugin.models import X\n'
    )
    assert not wrong_imports('engine', lazy)
    assert not wrong_imports('engine', 'from tl_plugin.datasets.wrappers import inner_datasets\n')


def test_functional_is_maths_on_tensors_alone():
    """Torch is all that it imports, beside the standard library."""
    allowed = ('torch', 'typing', 'collections', 'math', 'functools', 'itertools', '__future__')
    for path in (PACKAGE / 'functional').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            assert all(name.split('.')[0] in allowed for name in names), (path.name, names)
