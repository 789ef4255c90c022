"""A page as its reader gets it: tables, pictures, lists that unfold, links to elsewhere."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image


class Page(HTMLParser):
    """Read a page.

    Attributes:
        text: All that is shown, blanks collapsed.
        tables: Heading before it or summary around it -> rows, each a list of the cells' texts.
            ``<small>`` parts of a cell follow it as cells of their own.
        pictures: Attributes of each ``<img>``.
        addresses: All that the page asks a browser to fetch.
        landmarks: ``(tag, text)`` of headings in their order.
    """

    def __init__(self, content: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: list[dict] = []
        self.addresses: list[str] = []
        self.landmarks: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._parts: list[str] = []
        self._title = ''
        self.feed(content)
        self.text = ' '.join(''.join(self._parts).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [
            attributes[key]
            for key in ('src', 'href', 'srcset', 'action', 'poster')
            if key in attributes
        ]
        if tag == 'img':
            self.pictures.append(attributes)
        elif tag in ('h1', 'h2', 'h3', 'summary'):
            self.landmarks.append((tag, ''))
        elif tag == 'tr':
            self.tables.setdefault(self._title, []).append([])
        elif tag in ('td', 'th') or (tag == 'small' and 'td' in self._open):
            self.tables[self._title][-1].append('')
        if tag not in ('img', 'meta', 'br', 'link'):
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass
        if tag in ('h1', 'h2', 'h3', 'summary'):
            self._title = ' '.join(self.landmarks[-1][1].split())
            self.landmarks[-1] = (tag, self._title)

    def handle_data(self, data):
        if 'style' in self._open:
            return
        self._parts.append(data)
        for tag in reversed(self._open):
            if tag in ('h1', 'h2', 'h3', 'summary'):
                self.landmarks[-1] = (tag, self.landmarks[-1][1] + data)
            elif tag in ('td', 'th', 'small') and self.tables.get(self._title):
                if self.tables[self._title][-1]:
                    self.tables[self._title][-1][-1] += data
            else:
                continue
            break


def numbers(text: str) -> list[float]:
    """The numbers of a cell, as '1.2 (0.9 to 1.5)' or '1,234'.

    >>> numbers('1.2 (-0.9 to 1.5)'), numbers('1,234'), numbers('7e-05'), numbers('no')
    ([1.2, -0.9, 1.5], [1234.0], [7e-05], [])
    """
    found = re.findall(r'[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?', text)
    return [float(number.replace(',', '')) for number in found]


def check_that_it_stands_alone(content: str) -> Page:
    """A page of less than 5 MB that fetches nothing and says in words what its pictures show."""
    page = Page(content)
    assert len(content.encode()) < 5_000_000 and 'width=device-width' in content
    assert all(address.startswith('data:image/') for address in page.addresses)
    assert not re.search(r'https?://|@import|url\(|<script|<iframe|<object|<link', content)
    assert '<svg' not in content  # it would need a role and a title
    for picture in page.pictures:
        assert len(picture['alt']) > 15
        kind, encoded = picture['src'].split(',')
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert image.format.lower() == kind.split('/')[1].split(';')[0] and image.width > 1
    return page
