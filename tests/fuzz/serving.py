"""Any bytes as a request for scores: refused in a sentence, or the numbers that Python reads there.

    python -m tests.fuzz.serving -runs=1000000 CORPUS

The first byte of a case says how its body is compressed, whether the length of its JSON is given,
which two bytes more say, whether the rest is the body or edits of a request that is right, and
whether the model takes lists.
"""

import gzip
import json
import zlib
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fuzz import harness
from tests.fuzz.json_edits import edited

with harness.guided(__name__):
    from robe_numba.serving.lists import ListInput
    from robe_numba.serving.server.bodies import decompress
    from robe_numba.serving.server.protocol import encode, parse
    from robe_numba.serving.server.refusals import LONGEST, RefusedError

LIMIT = 4096
NUM_DENSE, NUM_TABLES = 1, 2
MULTI_HOT, WEIGHT_NAMES, MOST = ["a", "b"], [None, "w"], 2
LISTS = 0x80  # of the first byte
CODINGS = {0: None, 1: b"gzip", 2: b"deflate", 3: b"br"}


def case_bytes(
    body: bytes, coding: int = 0, length: int | None = None, lists: bool = False
) -> bytes:
    """The bytes of a case."""
    first = coding + 4 * (length is not None) + LISTS * lists
    return bytes([first]) + (length or 0).to_bytes(2, "big") + body


def check(data: bytes) -> None:
    """Read and answer; raises AssertionError, or what reading should not raise."""
    head, body = data[:3].ljust(3, b"\0"), data[3:]
    length = int.from_bytes(head[1:], "big") if head[0] & 4 else None
    with_lists = bool(head[0] & LISTS)
    if head[0] & 8:
        right = RIGHT_LISTS if with_lists else RIGHT
        document, tail = right[(head[0] >> 4) % 8 % len(right)]
        text = edited(document, body)
        body, length = text + tail, len(text) if tail else None
    coding = CODINGS[head[0] & 3]
    try:
        if coding is not None:
            body = decompress(body, coding, LIMIT)
        columns = (NUM_DENSE, NUM_TABLES, *((len(MULTI_HOT), True) if with_lists else ()))
        rows = parse(body, length, *columns)
    except RefusedError as error:
        if error.status not in (400, 413, 415) or not 0 < len(str(error)) <= LONGEST + 1:
            raise AssertionError(f"{error.status}: {error}") from error
        return
    assert len(body) <= LIMIT or coding is None
    assert rows.dense.shape == (len(rows.ids), NUM_DENSE)
    assert rows.ids.shape == (len(rows.ids), NUM_TABLES)
    assert not np.isinf(rows.dense).any()
    assert (rows.multi_hot is not None) == with_lists
    if with_lists:
        check_lists(rows)
    # Strings that nobody asks for are skipped unread, with bytes that Python would refuse.
    text = body[:length].decode("utf-8", "replace")
    check_tensors(json.loads(text, strict=False), rows)
    scores = np.linspace(0, 1, len(rows.ids), dtype=np.float32)
    answer, json_length = encode("m", "v", scores, rows)
    output = json.loads(answer[:json_length])["outputs"][0]
    if json_length is None:
        assert np.array_equal(np.array(output["data"], np.float32), scores)
    else:
        assert answer[json_length:] == scores.tobytes()


def check_lists(rows: Any) -> None:
    """Lists are refused where Python cannot cut them, and else are cut as by Python."""
    values, lengths, weights = (array.tolist() for array in rows.multi_hot)
    facts = {"categorical": ["x", "y"], "multi_hot": MULTI_HOT, "weights": WEIGHT_NAMES}
    config = {"dataset": facts | {"max_length": MOST}, "model": {"pooling": ["mean", "sum"]}}
    lists = ListInput(SimpleNamespace(path="run", config=config), None, None)
    flat = [length for row in lengths for length in row]
    fits = min(flat, default=0) >= 0 and sum(flat) == len(values) == len(weights)
    try:
        checked = lists.checked(len(rows.ids), rows.multi_hot)
    except ValueError:
        wrong = not np.isfinite(weights).all() or any(weight != 1 for weight in weights)
        assert not fits or wrong  # whose weight it is, other tests check
        return
    assert fits
    ends = np.cumsum([0, *flat]).tolist()
    parts = [range(b, e)[-MOST:] for b, e in pairwise(ends)]
    chosen = [k for feature in (0, 1) for part in parts[feature::2] for k in part]
    found = [bags for _, _, bags in lists.bags(rows.ids.view(np.uint64), checked)]
    if rows.ids.size:
        (bags,) = found
        singles = rows.ids.size
        assert bags.values[singles:].tolist() == [values[k] % 2**64 for k in chosen]
        assert bags.weights[singles:].tolist() == [weights[k] for k in chosen]
        lengths = [1] * singles + [len(part) for feature in (0, 1) for part in parts[feature::2]]
        assert bags.offsets.tolist() == np.cumsum([0, *lengths]).tolist()


def check_tensors(document: Any, rows: Any) -> None:
    """The numbers of JSON are those of Python's own parser."""
    for tensor in document["inputs"]:
        if "data" not in tensor:
            continue
        numbers, arrays = flat(tensor["data"]), {"dense": rows.dense, "ids": rows.ids}
        if rows.multi_hot is not None:
            arrays |= dict(zip(("values", "lengths", "weights"), rows.multi_hot, strict=True))
        found = arrays[tensor["name"]].ravel()
        if found.dtype == np.int64:
            assert [x % 2**64 for x in numbers] == [int(x) % 2**64 for x in found]
        else:
            kind = {"FP32": np.float32, "FP64": np.float64}[tensor["datatype"]]
            wanted = np.array([np.nan if x is None else x for x in numbers], np.float64)
            assert np.array_equal(wanted.astype(kind), found, equal_nan=True)


def flat(value: Any) -> list[Any]:
    """The numbers of a nested list."""
    return [x for inner in value for x in flat(inner)] if isinstance(value, list) else [value]


def _tensor(name: str, kind: str, shape: list[int], **content: Any) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, **content}


def _binary(size: int) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


def _right() -> list[tuple[dict[str, Any], bytes]]:
    """Requests, and the binary tensors that follow them."""
    dense = _tensor("dense", "FP32", [2, 1], data=[0.5, None])
    ids = _tensor("ids", "INT64", [2, 2], data=[[1, -2], [3, 4]])
    plain = {"inputs": [dense, ids]}
    wide = {
        "id": "x",
        "inputs": [
            _tensor("ids", "UINT64", [1, 2], data=[2**64 - 1, 0]),
            _tensor("dense", "FP64", [1, 1], data=[[-1e300]]),
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "probability", "parameters": {"binary_data": False}}],
    }
    inputs = [
        _tensor("dense", "FP32", [1, 1], **_binary(4)),
        _tensor("ids", "UINT32", [1, 2], **_binary(8)),
    ]
    binary = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return [(plain, b""), (wide, b""), (binary, bytes(range(12)))]


def _right_lists() -> list[tuple[dict[str, Any], bytes]]:
    """As `_right`, with lists."""
    plain, _, binary = _right()
    lists = [
        _tensor("values", "INT64", [5], data=[7, -1, 5, 2**40, 7]),
        _tensor("lengths", "INT32", [2, 2], data=[[0, 3], [1, 1]]),
        _tensor("weights", "FP32", [5], data=[0.5, -2, 1e-3, 1, 0]),
    ]
    listed = [
        _tensor("values", "UINT32", [3], **_binary(12)),
        _tensor("lengths", "INT64", [1, 2], **_binary(16)),
        _tensor("weights", "FP32", [3], **_binary(12)),
    ]
    content = np.arange(3, dtype=np.uint32).tobytes() + np.array([0, 3]).tobytes()
    content += np.array([1, 2, -0.5], np.float32).tobytes()
    return [
        ({"inputs": [*plain[0]["inputs"], *lists]}, b""),
        ({"inputs": [*binary[0]["inputs"], *listed]}, binary[1] + content),
    ]


RIGHT, RIGHT_LISTS = _right(), _right_lists()


def _seeds() -> list[bytes]:
    plain, wide, binary = (json.dumps(document).encode() for document, _ in RIGHT)
    edits = [bytes([8 + 16 * k, 0, 0]) + bytes(4 * count) for k in range(3) for count in (0, 1)]
    edits += [bytes([LISTS + 8 + 16 * k, 0, 0]) + bytes(4 * n) for k in range(2) for n in (0, 1)]
    lists = json.dumps(RIGHT_LISTS[0][0]).encode()
    return [
        *edits,
        case_bytes(lists, lists=True),
        case_bytes(lists),
        case_bytes(plain),
        case_bytes(plain, 0, len(plain)),
        case_bytes(gzip.compress(plain, mtime=0), 1),
        case_bytes(zlib.compress(plain), 2),
        case_bytes(gzip.compress(bytes(10**6), mtime=0), 1),
        case_bytes(plain, 3),
        case_bytes(wide),
        case_bytes(binary + bytes(12), 0, len(binary)),
        case_bytes(binary + bytes(11), 0, len(binary)),
    ]


SEEDS = _seeds()

if __name__ == "__main__":
    harness.fuzz(check, SEEDS)
