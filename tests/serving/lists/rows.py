"""Rows with lists of ids as arguments of a scorer."""

import json

import numpy as np

from tests.serving.servers import tensors
from tests.training.list_logs import WEIGHTED, columns


def row_major(
    singles, lists, weights=None, id_dtype="int64", length_dtype="int64", num_dense=1, num_single=1
):
    """Arguments of a scorer, from Python's lists: a single id, and the lists of each row."""
    numbers = [x % 2**64 for row in lists for one in row for x in one]
    values = np.array(numbers, np.uint64).astype(id_dtype)
    lengths = [[len(one) for one in row] for row in lists] or np.empty((0, 2))
    factors = None
    if weights is not None:
        factors = np.array([w for row in weights for one in row for w in one], np.float32)
    dense = np.full((len(lists), num_dense), 0.25, np.float32)
    ids = np.array([[int(x) % 2**64] * num_single for x in singles], np.uint64)
    ids = ids.reshape(len(lists), num_single).astype(id_dtype)
    return dense, ids, (values, np.array(lengths, length_dtype), factors)


def raw_rows(rows=None, schema=WEIGHTED, log=None):
    """Rows of the small log with lists, or of another one."""
    log = columns() if log is None else log
    rows = range(len(log["click"])) if rows is None else rows
    weights = None
    if schema.weights:
        weights = [[[1] * len(log["genres"][k]), log["seen_weights"][k]] for k in rows]
    lists = [[log[name][k] for name in schema.multi_hot] for k in rows]
    singles, num_single = [log["site"][k] for k in rows], len(schema.categorical)
    _, ids, multi_hot = row_major(singles, lists, weights, num_single=num_single)
    dense = np.array([[log[name][k] for name in schema.dense] for k in rows])
    return dense.reshape(len(rows), len(schema.dense)), ids, multi_hot


def joined(parts):
    """The rows of several calls as those of one."""
    dense, ids, lists = zip(*parts, strict=True)
    values, lengths, weights = zip(*lists, strict=True)
    return (
        np.concatenate(dense),
        np.concatenate(ids),
        (
            np.concatenate(values),
            np.concatenate(lengths),
            None if weights[0] is None else np.concatenate(weights),
        ),
    )


def list_tensors(dense, ids, multi_hot):
    """The inputs of a request in JSON; those without columns are left out."""
    values, lengths, weights = multi_hot
    inputs = tensors(dense, ids)["inputs"]
    inputs = [each for each in inputs if each["shape"][1]]
    for name, kind, array in (
        ("values", "INT64", values),
        ("lengths", "INT64", lengths),
        ("weights", "FP32", weights),
    ):
        if array is not None:
            shape = list(array.shape)
            inputs.append({"name": name, "datatype": kind, "shape": shape, "data": array.tolist()})
    return inputs


def binary_body(dense, ids, multi_hot):
    """A request whose tensors are binary, and the length of its JSON."""
    arrays = dict(zip(("values", "lengths", "weights"), multi_hot, strict=True))
    arrays |= {"dense": dense.astype(np.float32), "ids": ids}
    inputs, content = list_tensors(dense, ids, multi_hot), b""
    for tensor in inputs:
        array = arrays[tensor["name"]]
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": array.nbytes}
        content += array.tobytes()
    head = json.dumps({"inputs": inputs}).encode()
    return head + content, len(head)


def part(rows, first, last):
    """Rows [first, last) of the arguments of a scorer."""
    dense, ids, (values, lengths, weights) = rows
    begin, end = lengths[:first].sum(), lengths[:last].sum()
    cut = None if weights is None else weights[begin:end]
    return dense[first:last], ids[first:last], (values[begin:end], lengths[first:last], cut)
