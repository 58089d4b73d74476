"""How several processes divide rows or elements among themselves."""


def share_of(count: int, rank: int, size: int) -> range:
    """Return the share of a rank among `size` in `count` things; shares differ by one at most."""
    return range(rank * count // size, (rank + 1) * count // size)
