"""Where commands print their results, and how: words as they are, whatever a folder is called."""

import io
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

# All but TAB and the end of a line; a terminal would obey them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escaped(text: str) -> str:
    """A text whose control characters, which names may have too, are shown and not obeyed."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _Console(Console):
    """A console whose texts hold no commands to a terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)


def make_console(width: int | None = None, stderr: bool = False) -> Console:
    """A console without markup: `a[b]` and `run:x:` may be names of folders."""
    return _Console(
        width=width, stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False
    )


console = make_console()


def print_anything() -> None:
    """Have what a terminal or file cannot encode escaped, where it would be an error.

    Such are ± in ASCII, and names of files that are not UTF-8 anywhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_whole(table: "Table") -> None:
    """Print a table with lines as long as they are: a narrow window may be scrolled or widened."""
    from rich.measure import Measurement

    whole = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    make_console(max(whole, console.width)).print(table)
