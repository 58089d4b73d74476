"""The console that commands print to: names appear as they are, without markup or control codes."""

import io
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

# Control characters except TAB and newline.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escaped(text: str) -> str:
    """A text whose control characters are shown, so that the terminal does not interpret them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _Console(Console):
    """A console that escapes control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)


def make_console(width: int | None = None, stderr: bool = False) -> Console:
    """A console without markup, since `a[b]` and `run:x:` may be names of folders."""
    return _Console(
        width=width, stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False
    )


console = make_console()


def print_anything() -> None:
    """Escape characters that stdout or stderr cannot encode, instead of failing.

    Examples are ± in ASCII, and file names that are not UTF-8 in any encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_whole(table: "Table") -> None:
    """Print a table without wrapping its lines, even where the terminal is narrower."""
    from rich.measure import Measurement

    whole = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    make_console(max(whole, console.width)).print(table)
