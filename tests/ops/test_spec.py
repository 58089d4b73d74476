"""Specs: immutable, hashable, to and from JSON, and what they refuse."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given

from robe_numba import RobeSpec, TableSpec
from tests.support.strategies import specs

GOOD = {"array_size": 100, "block_size": 8, "embedding_dim": 16, "num_tables": 2}


@given(specs)
def test_json_gives_back_an_equal_spec(spec):
    again = type(spec).from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert eval(repr(spec)) == spec
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec


def test_a_spec_cannot_be_changed():
    spec = RobeSpec(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.seed = 1


def test_sizes_from_any_sequence_become_a_tuple():
    spec = RobeSpec(**GOOD, num_embeddings=np.array([3, 4]))
    assert spec.num_embeddings == (3, 4)
    assert spec == RobeSpec(**GOOD, num_embeddings=[3, 4])
    assert json.loads(spec.to_json())["num_embeddings"] == [3, 4]


def test_a_spec_prints_what_people_ask_about():
    spec = RobeSpec(27_000_000, 32, 128, 2, (100_000_000, 110_937_500), sign=True)
    assert spec.compression == 1000
    for word in ("ROBE-32", "108 MB", "1,000.0x", "multiply-shift", "signed"):
        assert word in str(spec)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"array_size": 0}, ValueError, "array_size is 0"),
        ({"array_size": 10.0}, TypeError, "array_size must be an integer"),
        ({"array_size": True}, TypeError, "array_size must be an integer"),
        ({"block_size": 101}, ValueError, "use Z <= m"),
        ({"block_size": 0}, ValueError, "block_size is 0"),
        ({"embedding_dim": -1}, ValueError, "embedding_dim is -1"),
        ({"num_tables": 0}, ValueError, "num_tables is 0"),
        ({"num_embeddings": (5,)}, ValueError, "1 sizes for 2 tables"),
        ({"num_embeddings": (5, 0)}, ValueError, r"num_embeddings\[1\] is 0"),
        ({"num_embeddings": 5}, TypeError, "list, tuple or array"),
        ({"hash": "md5"}, ValueError, "multiply-shift, paper, uma"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 2**64}, ValueError, "seed is"),
        ({"sign": 1}, TypeError, "True or False"),
        ({"alignment": 0}, ValueError, "alignment is 0"),
        ({"alignment": 9}, ValueError, "reads only 8 elements"),
        ({"alignment": 5, "embedding_dim": 4}, ValueError, "reads only 4 elements"),
        ({"array_size": np.array(100.7)}, TypeError, "array_size must be an integer"),
        ({"array_size": np.True_}, TypeError, "array_size must be an integer"),
        ({"num_embeddings": {5, 3}}, TypeError, "list, tuple or array"),
        ({"num_embeddings": b"ab"}, TypeError, "list, tuple or array"),
        ({"num_embeddings": {5: 1, 3: 1}}, TypeError, "list, tuple or array"),
        ({"hash": ["paper"]}, ValueError, "multiply-shift, paper, uma"),
        ({"hash": "paper", "array_size": 2**31}, ValueError, "multiply-shift"),
        ({"hash": "uma"}, ValueError, "give num_embeddings"),
        ({"hash": "uma", "num_embeddings": (1, 1), "sign": True}, ValueError, "neither sign"),
        ({"hash": "uma", "num_embeddings": (1, 1), "seed": 2**32}, ValueError, "seed is"),
    ],
)
def test_a_bad_value_is_refused_with_the_rule(change, error, words):
    with pytest.raises(error, match=words):
        RobeSpec(**{**GOOD, **change})


def test_json_of_another_kind_or_with_unknown_fields_is_refused():
    with pytest.raises(ValueError, match="robe spec"):
        RobeSpec.from_json(TableSpec((3,), 4).to_json())
    with pytest.raises(ValueError, match="robe spec"):
        RobeSpec.from_json("[1]")
    with pytest.raises(TypeError, match="colour"):
        RobeSpec.from_json(json.dumps({**GOOD, "colour": 1}))


def test_table_spec_refuses_no_tables():
    with pytest.raises(ValueError, match="at least one table"):
        TableSpec((), 4)
