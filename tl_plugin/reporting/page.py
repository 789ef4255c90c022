"""HTML pages that stand alone: one file with its style and its images, and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: The template that others extend: style, head and macros.
BASE_TEMPLATE = Path(__file__).with_name('page.html.j2')
#: Images up to this many pixels a side are shown pixel by pixel.
SMALL_IMAGE = 48


def render_page(template: Path, **values: Any) -> str:
    """Render a page.

    Args:
        template: A template that extends ``page.html.j2``.
        **values: What it shows; text is escaped.

    Returns:
        HTML.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, BASE_TEMPLATE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        data_uri=data_uri,
        number=number_text,
        fixed=lambda value, digits=1: f'{value:.{digits}f}',
        signed=lambda value: f'{value:+.1f}',
        percent=lambda share: f'{100 * share:.0f}%',
        spaced=lambda name: name.replace('_', ' '),
    )
    return environment.get_template(template.name).render(values)


def number_text(value: float | Mapping | None) -> str:
    """Write a number in three digits, or an estimate with its interval.

    >>> number_text({'value': 1.2345, 'low': 1.0, 'high': 1.5})
    '1.23 (1 to 1.5)'
    >>> number_text(12345.6), number_text(None)
    ('12346', 'unknown')
    """
    if value is None:
        return 'unknown'
    if isinstance(value, Mapping):
        value, low, high = (number_text(value[key]) for key in ('value', 'low', 'high'))
        return f'{value} ({low} to {high})'
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def data_uri(content: bytes) -> str:
    """Write the content of a PNG or JPEG file as an address that holds it."""
    kind = 'png' if content.startswith(b'\x89PNG') else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def thumbnail(image: np.ndarray, max_size: int = 128) -> bytes:
    """Shrink an image for a page.

    Args:
        image: RGB ``(H, W, 3)``, uint8.
        max_size: Pixels a side at most. Defaults to 128.

    Returns:
        A PNG of small images, whose single pixels count; else a JPEG, since photographs as PNG
        would make a page larger than a mail may be.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((max_size, max_size))
    buffer = io.BytesIO()
    if max(picture.size) <= SMALL_IMAGE:
        picture.save(buffer, format='PNG')
    else:
        picture.convert('RGB').save(buffer, format='JPEG', quality=90, subsampling=0)
    return buffer.getvalue()
