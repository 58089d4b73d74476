"""The order of numbered files, which shells and `glob` list as day_1, day_10, day_2."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[0-9]+")
_NOT_SHOWN = re.compile(r"[\W_]+")


def in_numeric_order(names: Sequence[str]) -> list[str]:
    """Sort names by their numbers, if nothing else tells them apart and they come as a shell does.

    A shell compares names character by character, in some languages without punctuation. Another
    order was chosen, and stays.
    """
    given = list(names)
    alike = len({_NUMBER.sub("0", name) for name in given}) == 1
    listed = given in (sorted(given), sorted(given, key=lambda name: _NOT_SHOWN.sub("", name)))
    if not (alike and listed):
        return given
    return sorted(given, key=lambda name: [int(number) for number in _NUMBER.findall(name)])
