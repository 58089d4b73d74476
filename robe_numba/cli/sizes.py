"""Sizes as people write them: of tables, and of memory."""

import re
from fractions import Fraction
from pathlib import Path

import data_tools
from data_tools.synthetic.presets import LOGS
from robe_numba.spec import MAX_SIZE, check_int

UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}{b}": 1000**k for k, prefix in enumerate("KMGT", 1) for b in ("", "B")}
UNITS |= {f"{prefix}I{b}": 1024**k for k, prefix in enumerate("KMGT", 1) for b in ("", "B")}


def parse_cardinalities(text: str) -> tuple[int, ...]:
    """The rows of each table.

    Parameters
    ----------
    text : the name of a published log ("kaggle", "terabyte" or "mlperf"), sizes such as
        "1000,200,30", or the path of a text file with one size per line. Names go first: a file
        called kaggle is ./kaggle.

    Raises
    ------
    ValueError : none of these, or a size that is no integer from 1 to 2**62.
    OSError : the file cannot be read.
    """
    if text in LOGS:
        return data_tools.cardinalities(text)
    if re.fullmatch(r"[-+\d_,\s]+", text):
        return tuple(
            _size(f"size {k} of {text!r}", word) for k, word in enumerate(text.split(","), 1)
        )
    path = Path(text)
    if not path.is_file():
        raise ValueError(
            f"cardinalities are {text!r}, which is no file; give {', '.join(LOGS)}, sizes such as "
            f"1000,200,30, or a text file with one size per line"
        )
    return _of_file(path)


def _of_file(path: Path) -> tuple[int, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; give a file with one size per line") from None
    sizes = tuple(
        _size(f"{path}, line {number}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not sizes:
        raise ValueError(f"{path} holds no size; give one per line, rows of a table")
    return sizes


def _size(where: str, word: str) -> int:
    try:
        number = int(word)
    except ValueError:
        raise ValueError(
            f"{where} is {word.strip()[:40]!r}; give the rows of a table, an integer such as 1000"
        ) from None
    return check_int(where, number, 1, MAX_SIZE)


def parse_memory(text: str) -> int:
    """Bytes, rounded down.

    Parameters
    ----------
    text : a number and its unit, in any case: k, M, G, T are powers of 1000 and Ki, Mi, Gi, Ti of
        1024, with or without a B; without a unit, bytes. "2MB" is 2,000,000, "1.5GiB"
        1,610,612,736.

    Raises
    ------
    ValueError : not of this form, or less than a byte.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip(), re.ASCII | re.IGNORECASE)
    factor = UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"memory is {text!r}; give a number and its unit, as 2MB, 512k or 1GiB")
    number = int(Fraction(match[1]) * factor)
    if number < 1:
        raise ValueError(f"memory is {text!r}; it must be at least 1 byte, as 2MB, 512k or 1GiB")
    return number
