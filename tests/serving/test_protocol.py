"""Requests of the protocol, from bytes to arrays, and whatever is wrong with them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.support.needs import SERVE, need

need(*SERVE)

from robe_numba.serving.server.protocol import Rows, encode, parse
from robe_numba.serving.server.refusals import LONGEST, RefusedError
from tests.fuzz import serving

FLOATS = {"FP32": np.float32, "FP64": np.float64}
INTEGERS = {"INT64": np.int64, "UINT64": np.uint64, "INT32": np.int32, "UINT32": np.uint32}


def tensor(name, datatype, array, form):
    """A tensor as JSON, and its binary bytes."""
    found = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if form == "binary":
        return {**found, "parameters": {"binary_data_size": array.nbytes}}, array.tobytes()
    values = array.tolist() if form == "nested" else array.ravel().tolist()
    text = json.dumps(values).replace("NaN", "null")
    return {**found, "data": json.loads(text)}, b""


@st.composite
def requests(draw):
    """Dense, ids, the body and the length of its JSON."""
    count, num_dense, num_tables = (draw(st.integers(low, 4)) for low in (0, 0, 1))
    kind = draw(st.sampled_from(sorted(FLOATS)))
    finite = st.floats(width=int(kind[2:]), allow_infinity=False)
    dense = draw(arrays.arrays(FLOATS[kind], (count, num_dense), elements=finite))
    id_kind = draw(st.sampled_from(sorted(INTEGERS)))
    ids = draw(arrays.arrays(INTEGERS[id_kind], (count, num_tables)))
    forms = [draw(st.sampled_from(["flat", "nested", "binary"])) for _ in range(2)]
    parts = [tensor("dense", kind, dense, forms[0]), tensor("ids", id_kind, ids, forms[1])]
    if draw(st.booleans()):
        parts.reverse()
    header = json.dumps({"inputs": [part for part, _ in parts]}).encode()
    body = header + b"".join(content for _, content in parts)
    return dense, ids, body, len(header) if "binary" in forms else None


@given(requests())
def test_rows_come_out_as_they_went_in(case):
    dense, ids, body, length = case
    rows = parse(body, length, dense.shape[1], ids.shape[1])
    assert rows.dense.dtype == dense.dtype
    np.testing.assert_array_equal(rows.dense, dense)  # NaN equals NaN here
    assert rows.ids.dtype == np.int64
    assert rows.ids.shape == ids.shape
    wanted = [int(x) % 2**64 for x in ids.ravel()]
    assert [int(x) % 2**64 for x in rows.ids.ravel()] == wanted
    for array in (rows.dense, rows.ids):
        assert array.flags.c_contiguous
        assert array.flags.aligned


@given(requests(), st.data())
def test_damaged_requests_are_read_or_refused(case, data):
    """Every byte string is one or the other, and what is read has the right shape."""
    dense, ids, body, length = case
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                damaged[place] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[place : place + data.draw(st.integers(1, 9))]
            case "insert":
                damaged[place:place] = data.draw(st.sampled_from(NASTY))
            case _:
                damaged += damaged[place:]
        damaged = damaged or bytearray(b"{")
    length = data.draw(st.sampled_from([length, None, 0, len(damaged)]))
    try:
        rows = parse(bytes(damaged), length, dense.shape[1], ids.shape[1])
    except RefusedError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert refusal.status == 400
        assert 0 < len(str(refusal)) <= LONGEST + 1
        return
    assert rows.dense.shape == (len(rows.ids), dense.shape[1])
    assert rows.ids.shape[1] == ids.shape[1]
    assert not np.isinf(rows.dense).any()


NASTY = [b"9" * 30, b"[" * 2000, b"1e999", b"null", b"-", b'"', b"\\ud800", b"\xff", b"NaN", b"{}"]

ID = {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}
DENSE = {"name": "dense", "datatype": "FP32", "shape": [1, 1], "data": [0.5]}
CLASSES = {"name": "probability", "parameters": {"classification": 1}}
WRONG = [
    ({"inputs": [DENSE]}, "input ids is missing"),
    ({"inputs": [ID]}, "input dense is missing"),
    ({"inputs": [DENSE, ID, ID]}, "ids is given twice"),
    ({"inputs": [DENSE, ID, {**ID, "name": "id"}]}, "no input 'id'; the inputs are dense and ids"),
    ({"inputs": [DENSE, {**ID, "datatype": "INT8"}]}, "'INT8'; use INT64 or UINT64 or INT32"),
    ({"inputs": [{**DENSE, "datatype": "FP16"}, ID]}, "'FP16'; use FP32 or FP64"),
    ({"inputs": [DENSE, {**ID, "shape": [2]}]}, r"shape of ids is [2]; it must be [rows, 2]"),
    ({"inputs": [DENSE, {**ID, "shape": [1, 3]}]}, "it must be [rows, 2]"),
    ({"inputs": [DENSE, {**ID, "shape": [-1, 2]}]}, "it must be [rows, 2]"),
    ({"inputs": [DENSE, {**ID, "shape": [2, 2]}]}, "shape of ids is [2, 2], but its data has 2"),
    ({"inputs": [DENSE, {**ID, "shape": [10**30, 2]}]}, "but its data has 2 numbers"),
    ({"inputs": [DENSE, {**ID, "data": [[1], [2]]}]}, "its data has [2, 1]"),
    ({"inputs": [DENSE, {**ID, "data": [[1, 2], [3]]}]}, "data of ids is not [1, 2] of int64"),
    ({"inputs": [DENSE, {**ID, "data": [[[1, 2]]]}]}, "Expected `int`, got `array`"),
    ({"inputs": [DENSE, {**ID, "data": [1, 2.0]}]}, "Expected `int`, got `float`"),
    ({"inputs": [DENSE, {**ID, "data": [1, None]}]}, "Expected `int`, got `null`"),
    ({"inputs": [DENSE, {**ID, "data": [1, True]}]}, "Expected `int`, got `bool`"),
    ({"inputs": [DENSE, {**ID, "data": [1, "2"]}]}, "Expected `int`, got `str`"),
    ({"inputs": [DENSE, {**ID, "data": 1}]}, "Expected `array`, got `int`"),
    ({"inputs": [DENSE, {**ID, "data": [1, 2**63]}]}, "data of ids is not [1, 2] of int64"),
    ({"inputs": [DENSE, {**ID, "datatype": "UINT64", "data": [1, 2**64]}]}, "of uint64"),
    ({"inputs": [DENSE, {**ID, "data": [1, 2**63]}]}, "of int64: a number is outside its range"),
    ({"inputs": [DENSE, {**ID, "datatype": "BYTES", "data": ["a", "b"]}]}, "data_tools.text_ids"),
    ({"inputs": [DENSE, {**ID, "datatype": "UINT64", "data": [1, -1]}]}, "of uint64"),
    ({"inputs": [DENSE, {**ID, "datatype": "INT32", "data": [1, 2**31]}]}, "of int32"),
    ({"inputs": [{**DENSE, "data": [1e39]}, ID]}, "dense has 1e+39, which is beyond float32"),
    ({"inputs": [{**DENSE, "data": ["1"]}, ID]}, "Expected `float | null`, got `str`"),
    ({"inputs": [{**DENSE, "shape": [2, 1], "data": [1, 2]}, ID]}, "dense has 2 rows but"),
    ({"inputs": [DENSE, {n: v for n, v in ID.items() if n != "data"}]}, "neither data nor binary"),
    ({"inputs": [DENSE, {**ID, "parameters": {"binary_data_size": 16}}]}, "both data and binary"),
    ({"inputs": [DENSE, {**ID, "parameters": {"shared_memory_region": "x"}}]}, "is not served"),
    ({"inputs": [DENSE, ID], "outputs": [{"name": "score"}]}, "the output is probability"),
    ({"inputs": [DENSE, ID], "outputs": [CLASSES]}, "classification, which is not served"),
    ({"inputs": [DENSE, ID], "id": 5}, "Expected `str | null`, got `int` - at `$.id`"),
    ({"inputs": {}}, "Expected `array`, got `object`"),
    ({}, "missing required field `inputs`"),
    ([], "Expected `object`, got `array`"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "words"), WRONG, ids=lambda part: str(part)[:40])
def test_what_breaks_a_rule_is_refused_with_the_rule_and_the_value(request_, words):
    with pytest.raises(RefusedError) as caught:
        parse(json.dumps(request_).encode(), None, 1, 2)
    assert caught.value.status == 400
    assert words in str(caught.value)


DEEP = b"[" * 10**5


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", DEEP, b'{"inputs":' + DEEP, b"NaN"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(RefusedError, match="is not valid JSON of the protocol"):
        parse(text, None, 1, 2)


@pytest.mark.parametrize(
    ("size", "tail", "cut", "words"),
    [
        (15, 16, 0, "binary_data_size of ids is 15, but [1, 2] of int64 are 16 bytes"),
        (True, 16, 0, "binary_data_size of ids is True"),
        (16.0, 16, 0, None),
        ("16", 16, 0, "binary_data_size of ids is '16'"),
        (16, 15, 0, "ids has 16 binary bytes, but only 15 follow the JSON"),
        (16, 17, 0, "1 binary bytes follow that belong to no input"),
        (16, 16, 1, "is not valid JSON"),
        (16, 16, -1, "is not valid JSON"),
        (16, 16, 10**6, "Inference-Header-Content-Length is"),
    ],
)
def test_lengths_that_disagree_are_refused(size, tail, cut, words):
    ids = {k: v for k, v in ID.items() if k != "data"} | {"parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [DENSE, ids]}).encode()
    body = header + bytes(tail)
    if words is None:
        assert parse(body, len(header), 1, 2).ids.tolist() == [[0, 0]]
        return
    with pytest.raises(RefusedError) as caught:
        parse(body, len(header) + cut, 1, 2)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_binary_infinities_are_refused_and_nan_is_missing(value):
    dense = {k: v for k, v in DENSE.items() if k != "data"}
    dense["parameters"] = {"binary_data_size": 4}
    header = json.dumps({"inputs": [dense, ID]}).encode()
    rows = parse(header + np.float32(np.nan).tobytes(), len(header), 1, 2)
    assert np.isnan(rows.dense).all()
    with pytest.raises(RefusedError, match=f"dense has {value}, which is not finite"):
        parse(header + np.float32(value).tobytes(), len(header), 1, 2)


def test_dense_may_be_left_out_where_it_has_no_columns():
    rows = parse(json.dumps({"inputs": [ID]}).encode(), None, 0, 2)
    assert rows.dense.shape == (1, 0)
    empty = {**DENSE, "shape": [1, 0], "data": []}
    assert parse(json.dumps({"inputs": [empty, ID]}).encode(), None, 0, 2).dense.shape == (1, 0)
    for rows in (2, 2**31 + 1, 2**62, 10**30):
        with pytest.raises(RefusedError, match=r"has 2 rows but|give at most 2147483648"):
            parse(json.dumps({"inputs": [{**empty, "shape": [rows, 0]}, ID]}).encode(), None, 0, 2)


@pytest.mark.parametrize(
    ("whole", "output", "binary"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (True, {}, True),
        (True, {"binary_data": False}, False),
        (None, {"binary_data": True}, True),
    ],
)
def test_an_answer_is_binary_where_that_is_asked_for(whole, output, binary):
    request = {"inputs": [DENSE, ID], "id": "a"}
    if whole is not None:
        request["parameters"] = {"binary_data_output": whole}
    if output is not None:
        request["outputs"] = [{"name": "probability", "parameters": output}]
    rows = parse(json.dumps(request).encode(), None, 1, 2)
    scores = np.array([0.1], np.float32)
    body, length = encode("m", "v", scores, rows)
    head = {"model_name": "m", "model_version": "v", "id": "a"}
    result = {"name": "probability", "datatype": "FP32", "shape": [1]}
    if binary:
        result["parameters"] = {"binary_data_size": 4}
        assert body[length:] == scores.tobytes()
    else:
        assert length is None
        result["data"] = [float(scores[0])]
    assert json.loads(body[:length]) == {**head, "outputs": [result]}


@given(st.integers(0, 1), st.binary(max_size=24))
def test_edited_requests_with_lists_are_cut_as_by_python_or_refused(number, edits):
    serving.check(bytes([serving.LISTS + 8 + 16 * number, 0, 0]) + edits)


@pytest.mark.parametrize("number", range(len(serving.SEEDS)))
def test_the_seeds_of_the_fuzzer(number):
    serving.check(serving.SEEDS[number])


def test_a_score_that_is_no_number_is_null():
    rows = Rows(np.zeros((1, 1), np.float32), np.zeros((1, 2), np.int64), None, False)
    body, _ = encode("m", "v", np.array([np.nan], np.float32), rows)
    assert json.loads(body)["outputs"][0]["data"] == [None]
