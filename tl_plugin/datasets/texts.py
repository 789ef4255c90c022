"""Reads the lines of a text, and says where it is none."""

from __future__ import annotations


def decode_lines(path: object, raw: bytes) -> list[str]:
    """Decodes UTF-8, with or without a byte-order mark, line by line.

    Args:
        path: The file's name, for messages.
        raw: Its content.

    Raises:
        ValueError: If it is something else; names the line and the byte.

    Example:
        >>> decode_lines('list.txt', 'größe.jpg 1'.encode('latin-1'))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: list.txt, line 1: expected text in UTF-8, got byte 0xf6 after 'gr': save it ...
    """
    if raw.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise ValueError(
            f'{path}, line 1: expected text in UTF-8, got UTF-16: save it as UTF-8 ("CSV UTF-8" in '
            'spreadsheets)'
        )
    lines = []
    for number, line in enumerate(raw.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):
        try:
            lines.append(line.decode('utf-8').rstrip('\r'))
        except UnicodeDecodeError as error:
            before = line[: error.start].decode('utf-8')[-40:]
            raise ValueError(
                f'{path}, line {number}: expected text in UTF-8, got byte '
                f'{line[error.start]:#04x} after {before!r}: save it as UTF-8 ("CSV UTF-8" in '
                'spreadsheets)'
            ) from error
        if '\0' in lines[-1]:
            raise ValueError(f'{path}, line {number}: expected text, got a zero byte: no text file')
    return lines[:-1] if lines[-1] == '' else lines
