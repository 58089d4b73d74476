"""Sizes and tables as text for people."""

from collections.abc import Iterable, Sequence

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def format_bytes(num_bytes: float, digits: int = 4) -> str:
    """A size in decimal units: 2 MB is 2,000,000 bytes.

    Parameters
    ----------
    num_bytes : float
        Bytes, or bytes per second.
    digits : int
        Significant digits.

    Returns
    -------
    str
        Such as "1.234 GB" or "12 B".
    """
    for unit, factor in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.{digits}g} {unit}"
    return f"{num_bytes:,.0f} B"


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table without a final newline.

    Parameters
    ----------
    header : sequence
        Titles of the columns.
    rows : iterable of sequences
        Cells of each row, formatted by `str`; a "|" in a cell is escaped.

    Returns
    -------
    str
    """
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
