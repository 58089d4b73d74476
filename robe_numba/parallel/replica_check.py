"""Whether all processes still have the same."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.group import Group, this_process


class ReplicaError(RuntimeError):
    """Processes that should have the same bits have not; the message names them."""


def different(group: Group, contents: Mapping[str, Any]) -> list[str]:
    """The ranks that do not have the same bits as most, or as rank 0 if none are most.

    Parameters
    ----------
    contents : bytes, or C-contiguous arrays of either device, by the same names everywhere.

    Returns
    -------
    "rank 2 (process 4242 on node7): name, name" of each, the same in all processes
    """
    if group.size == 1:
        return []
    digests = {name: _digest(content) for name, content in contents.items()}
    found = group.collect((this_process(), digests))
    votes = Counter(tuple(each.values()) for _, each in found)
    right = max(votes, key=lambda each: votes[each])  # of several the first, which is rank 0's
    wrong = []
    for rank, (process, each) in enumerate(found):
        pairs = zip(each.items(), right, strict=True)
        names = [name for (name, digest), expected in pairs if digest != expected]
        if names:
            wrong.append(f"rank {rank} ({process}): {', '.join(names)}")
    return wrong


def check_replicas(group: Group, arrays: Mapping[str, Any], when: str) -> None:
    """Require that arrays have the same bits in all processes.

    Parameters
    ----------
    arrays : as `different` takes them.
    when : for the message: "after step 12".

    Raises
    ------
    ReplicaError : in all processes.
    """
    wrong = different(group, arrays)
    if wrong:
        rest = "rank 0 (of two nobody knows which is right)" if group.size == 2 else "the rest"
        raise ReplicaError(
            f"{when} the processes no longer have the same model, as they must. Other bits than "
            f"{rest}: {'; '.join(wrong)}. A machine's memory, network or libraries may be at fault"
        )


def _digest(content: Any) -> bytes:
    if not isinstance(content, bytes):
        content = to_numpy(content).reshape(-1).data
    return hashlib.blake2b(content).digest()
