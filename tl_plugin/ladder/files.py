"""Small files that are either whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write beside the file, then rename: a reader never sees half of it."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)


def write_json(path: Path, content: dict) -> None:
    """Write a dict as readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def read_json(path: Path) -> dict | None:
    """Return a file's content, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
