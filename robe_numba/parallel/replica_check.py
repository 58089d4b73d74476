"""Whether all processes have the same bits."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.group import Group, this_process


class ReplicaError(RuntimeError):
    """Processes that should have the same bits do not; the message names them."""


def differing_ranks(group: Group, contents: Mapping[str, Any]) -> list[str]:
    """Compare contents of all processes.

    Parameters
    ----------
    group : Group
        The processes.
    contents : mapping of str to bytes or array
        C-contiguous arrays of either device; the names are the same in all processes.

    Returns
    -------
    list of str
        "rank 2 (process 4242 on node7): name, name" of each rank that does not have the bits of the
        majority, or of rank 0 if there is none. The same in all processes.
    """
    if group.size == 1:
        return []
    digests = {name: _digest(content) for name, content in contents.items()}
    found = group.all_gather((this_process(), digests))
    votes = Counter(tuple(each.values()) for _, each in found)
    expected = max(votes, key=lambda each: votes[each])  # the first of several, so that of rank 0
    wrong = []
    for rank, (process, each) in enumerate(found):
        pairs = zip(each.items(), expected, strict=True)
        names = [name for (name, digest), right in pairs if digest != right]
        if names:
            wrong.append(f"rank {rank} ({process}): {', '.join(names)}")
    return wrong


def check_replicas(group: Group, arrays: Mapping[str, Any], when: str) -> None:
    """Require that arrays have the same bits in all processes.

    Parameters
    ----------
    group : Group
        The processes.
    arrays : mapping of str to array
        As for `differing_ranks`.
    when : str
        For the message: "after step 12".

    Raises
    ------
    ReplicaError
        In all processes.
    """
    wrong = differing_ranks(group, arrays)
    if wrong:
        rest = "rank 0 (either of the two may be right)" if group.size == 2 else "the rest"
        raise ReplicaError(
            f"{when} the processes no longer have the same model, as they must. Ranks that differ "
            f"from {rest}: {'; '.join(wrong)}. A machine's memory, network or libraries may be at "
            f"fault"
        )


def _digest(content: Any) -> bytes:
    if not isinstance(content, bytes):
        content = to_numpy(content).reshape(-1).data
    return hashlib.blake2b(content).digest()
