"""What arguments may not be, and what the page on JAX says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.needs import need

need("jax")

import jax
import jax.numpy as jnp

from robe_numba import RobeSpec
from robe_numba.jax import block_starts, embedding_bag, lookup, to_words
from tests.support.inputs import BAG_INDICES, FREE, INDICES, OFFSETS, SPEC, array

ROOT = Path(__file__).parents[2]
WORDS = to_words(INDICES)


def refused(kind, words, call):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(
    ("kind", "words", "values"),
    [
        (TypeError, "array must be an array of NumPy or JAX, got list", array().tolist()),
        (TypeError, r"dtype int32; it must be float32 .*astype\('float32'\)", np.zeros(100, "i4")),
        (TypeError, "float64, which JAX has in 64-bit mode alone", array().astype(np.float64)),
        (ValueError, r"array has shape \(99,\); expected \(100,\)", array()[1:]),
        (ValueError, r"array has shape \(10, 10\); expected", array().reshape(10, 10)),
    ],
)
def test_arrays_that_are_refused(kind, words, values):
    refused(kind, words, lambda: lookup(values, INDICES, SPEC))
    refused(kind, words, lambda: embedding_bag(values, BAG_INDICES, OFFSETS, SPEC))


@pytest.mark.parametrize(
    ("kind", "words", "values"),
    [
        (TypeError, "indices must be an array of NumPy or JAX, got list", INDICES.tolist()),
        (TypeError, "dtype float32; it must be an integer dtype", INDICES.astype(np.float32)),
        (TypeError, "dtype bool; it must be an integer dtype", INDICES > 3),
        (ValueError, r"shape \(2, 3\); expected \(..., num_tables\)", INDICES.T),
        (ValueError, r"shape \(\); expected \(..., num_tables\)", np.array(3)),
        (TypeError, "indices is a tuple of 3", (*WORDS, WORDS.low)),
        (TypeError, "indices' high words must be an array", (0, WORDS.low)),
        (TypeError, "low words have dtype int64; they must be uint32", (WORDS.high, INDICES)),
        (ValueError, r"high words have shape \(2, 2\) and the low", (WORDS.high[1:], WORDS.low)),
        (ValueError, r"indices\[1, 0\] is 10, but table 0 .* 0 to 9", np.array([[9, 19], [10, 0]])),
        (ValueError, r"indices\[0\] is -1, but table 0", np.array([-1, 0], np.int32)),
        (ValueError, r"indices\[0, 1, 1\] is 20, but table 1", jnp.array([[[0, 0], [0, 20]]])),
        (ValueError, r"is 18446744073709551615, but table 0", to_words(np.array([-1, 0]))),
    ],
)
def test_indices_that_are_refused(kind, words, values):
    refused(kind, words, lambda: lookup(array(), values, SPEC))
    refused(kind, words, lambda: block_starts(values, SPEC))


@pytest.mark.parametrize(
    ("kind", "words", "changed"),
    [
        (ValueError, r"shape \(3, 2\); bags take one dimension", {"indices": INDICES}),
        (TypeError, "offsets must be an array", {"offsets": [0, 1]}),
        (TypeError, "offsets has dtype float64", {"offsets": OFFSETS * 1.0}),
        (
            ValueError,
            r"offsets has shape \(4,\); expected \(num_tables \*",
            {"offsets": OFFSETS[1:]},
        ),
        (ValueError, "offsets starts at 1", {"offsets": np.array([1, 2, 2, 3, 5])}),
        (ValueError, "falls from 3 to 2 at bag 1", {"offsets": np.array([0, 3, 2, 3, 5], np.int8)}),
        (ValueError, "ends at 4 but there are 5", {"offsets": jnp.array([0, 2, 2, 3, 4])}),
        (ValueError, "mode is 'median'", {"mode": "median"}),
        (ValueError, r"mode is \('sum', 'max'\); choose one", {"mode": ("sum", "max")}),
        (ValueError, "mode 'sum' alone", {"mode": "max", "per_sample_weights": array()[:5]}),
        (ValueError, r"per_sample_weights has shape \(4,\)", {"per_sample_weights": array()[:4]}),
        (
            TypeError,
            "per_sample_weights has dtype float16",
            {"per_sample_weights": np.ones(5, "f2")},
        ),
        (TypeError, "padding_idx must be an integer", {"padding_idx": 1.0}),
        (ValueError, r"indices\[1\] is 10, but table 0", {"indices": np.array([1, 10, 3, 4, 15])}),
        (ValueError, r"indices\[4\] is 20, but table 1", {"indices": jnp.array([1, 2, 3, 4, 20])}),
        (ValueError, r"indices\[0\] is 4294967297, but", {"indices": BAG_INDICES + 2**32}),
    ],
)
def test_bags_that_are_refused(kind, words, changed):
    given = {"indices": BAG_INDICES, "offsets": OFFSETS, **changed}
    refused(kind, words, lambda: embedding_bag(array(), spec=SPEC, **given))


def test_padding_may_lie_outside_the_tables():
    ids = np.array([1, -1, 3, 4, 15], np.int32)
    refused(ValueError, "is -1", lambda: embedding_bag(array(), ids, OFFSETS, SPEC))
    out = embedding_bag(array(), ids, OFFSETS, SPEC, padding_idx=-1)
    np.testing.assert_array_equal(out[0, 0], lookup(array(), np.array([1, 0]), SPEC)[0])


def test_what_is_traced_is_checked_for_shape_and_dtype():
    jitted = jax.jit(lookup, static_argnames="spec")
    refused(ValueError, "expected", lambda: jitted(array(), INDICES.T, SPEC))
    refused(TypeError, "integer dtype", lambda: jitted(array(), INDICES * 1.0, SPEC))
    mean = jax.jit(lambda *bags: embedding_bag(array(), *bags, SPEC))
    refused(ValueError, "offsets has shape", lambda: mean(BAG_INDICES, OFFSETS[1:]))


def test_a_known_id_is_checked_while_the_array_is_traced():
    gradient = jax.grad(lambda array: lookup(array, np.array([[10, 0]]), SPEC).sum())
    refused(ValueError, r"indices\[0, 0\] is 10", lambda: gradient(array()))


def test_a_spec_is_one_that_32_bits_can_index():
    refused(TypeError, "spec must be a RobeSpec", lambda: lookup(array(), INDICES, "robe"))
    large = RobeSpec(2**31 + 1, 4, 8, 2)
    remedy = re.escape('jax.config.update("jax_enable_x64", True)')
    refused(
        ValueError, f"array_size is 2147483649, .* {remedy}", lambda: block_starts(INDICES, large)
    )


def test_64_bit_ids_are_never_shortened_outside_jit():
    ids = np.array([[2**32 + 1, 1]])
    one, other = block_starts(ids, FREE)[0], block_starts(ids - 2**32, FREE)[0]
    assert (np.asarray(one) != np.asarray(other)).any()


@pytest.mark.parametrize("values", [np.array([1.0]), [True], "7"])
def test_words_are_of_integers(values):
    refused(TypeError, "integers alone", lambda: to_words(values))


def test_without_jax_an_import_says_what_to_install():
    code = (
        "import sys\nsys.modules['jax'] = None\nimport robe_numba\n"
        "try:\n    import robe_numba.jax\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install 'robe-numba[jax]'" in finished.stdout


def test_the_examples_of_the_page_run():
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "jax.md").read_text(), re.DOTALL)
    names = {}
    for example in examples:
        exec(example, names)
    assert names["rows"].shape == (1, 3, 16)
    before = names["init_array"](names["spec"], seed=0)
    assert names["loss"](names["array"], names["ids"]) < names["loss"](before, names["ids"])
