"""The order of numbered files, which shells and `glob` list as day_1, day_10, day_2."""

import re
from collections.abc import Sequence

from data_tools.sources.file_types import without_ending

_NUMBER = re.compile(r"[0-9]+")
_NOT_SHOWN = re.compile(r"[\W_]+")


def in_numeric_order(names: Sequence[str]) -> list[str]:
    """Sort names by their numbers, if they differ in nothing else and are in a shell's order.

    Endings of compressed files do not count, since some may be unpacked. A shell compares names
    character by character, in some languages without punctuation. Any other order was chosen by
    the user, and is kept.
    """
    given = list(names)
    bare = {name: without_ending(name) for name in given}
    alike = len({_NUMBER.sub("0", name) for name in bare.values()}) == 1
    listed = given in (sorted(given), sorted(given, key=lambda name: _NOT_SHOWN.sub("", name)))
    if not (alike and listed):
        return given
    return sorted(given, key=lambda name: [int(number) for number in _NUMBER.findall(bare[name])])
