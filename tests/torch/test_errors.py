"""Arguments that are refused: the type and words of the error, and that nothing is written."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import robe_numba.torch as rt

SIZE = (10, 6)
TABLE = torch.ones(SIZE)
MODULES = (rt.RobeEmbedding, rt.RobeEmbeddingBag)
IDS, OFFSETS = torch.tensor([1, 2, 9]), torch.tensor([0, 2])

IMPOSSIBLE = [
    ({"max_norm": 1.0}, "cannot have max_norm: .*; normalise the output"),
    ({"scale_grad_by_freq": True}, "cannot have scale_grad_by_freq: .*FusedAdagrad"),
    ({"sparse": True}, "cannot have sparse: .*; use optimizer=FusedSGD"),
    ({"_weight": TABLE}, r"cannot have _weight: .*; use from_pretrained\(weight\)"),
]


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize(("option", "words"), IMPOSSIBLE, ids=lambda part: str(part)[:12])
def test_what_a_hashed_table_cannot_have(kind, option, words):
    with pytest.raises(ValueError, match=words):
        kind(*SIZE, **option)
    if "_weight" not in option:
        with pytest.raises(ValueError, match=words):
            kind.from_pretrained(TABLE, **option)


def test_a_frozen_module_is_asked_for_in_another_way():
    with pytest.raises(ValueError, match=r"_freeze: use module.requires_grad_\(False\)"):
        rt.RobeEmbedding(*SIZE, _freeze=True)


def error_of(call):
    """What it raises."""
    try:
        call()
    except Exception as error:
        return error
    pytest.fail("nothing is refused")


def refused(ours, theirs):
    """The words of our error, which is of the type of torch's and has the first line of its."""
    expected, error = error_of(theirs), error_of(ours)
    assert type(error) is type(expected)
    assert str(expected).splitlines()[0] in str(error)
    return str(error)


@pytest.mark.parametrize("arguments", [(-1, 6), (10, -6), (10.5, 6), ("10", 6)], ids=str)
def test_sizes_that_torch_refuses(arguments):
    for ours, theirs in zip(MODULES, (nn.Embedding, nn.EmbeddingBag), strict=True):
        refused(lambda: ours(*arguments), lambda: theirs(*arguments))  # noqa: B023


@pytest.mark.parametrize("padding_idx", [10, -11])
@pytest.mark.parametrize("kind", MODULES)
def test_padding_outside_the_table(kind, padding_idx):
    theirs = nn.Embedding if kind is rt.RobeEmbedding else nn.EmbeddingBag
    for make in (kind, theirs):
        with pytest.raises(AssertionError, match="within num_embeddings"):
            make(*SIZE, padding_idx=padding_idx)


ARRAY = rt.RobeArray(50)
OPTIONS = [
    ({"compresion": 10}, TypeError, "unknown option 'compresion'; choose among compression, "),
    ({"compression": 0}, ValueError, "compression is 0; it must be positive"),
    ({"compression": -3}, ValueError, "compression"),
    ({"compression": float("nan")}, ValueError, "compression"),
    ({"compression": "10"}, TypeError, "compression"),
    ({"array_size": 0}, ValueError, "array_size is 0"),
    ({"array_size": 5.5}, TypeError, "array_size must be an integer"),
    ({"array_size": 50, "compression": 3}, ValueError, "array_size and compression are both given"),
    ({"array_size": 50, "block_size": 51}, ValueError, "block_size .* use Z <= m"),
    ({"block_size": 0}, ValueError, "block_size is 0"),
    ({"alignment": 7, "array_size": 50}, ValueError, "alignment is 7"),
    ({"hash": "md5"}, ValueError, "multiply-shift, paper, uma"),
    ({"hash": "uma", "sign": True, "array_size": 50}, ValueError, "neither sign"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"sign": 1}, TypeError, "sign must be True or False"),
    ({"scale": -1}, ValueError, "scale"),
    ({"scale": None, "optimizer": "sgd"}, TypeError, "optimizer is a str; it must be a FusedSGD"),
    ({"array": torch.ones(50)}, TypeError, "array is a Tensor; it must be a RobeArray"),
    ({"array": ARRAY, "array_size": 50}, ValueError, "array_size is given, but so is an array"),
    ({"array": ARRAY, "compression": 3}, ValueError, "compression is given, but so is an array"),
    ({"array": ARRAY, "scale": 1}, ValueError, "scale is given, but so is an array"),
    ({"array": ARRAY, "dtype": torch.float64}, ValueError, "dtype is given, but so is an array"),
    ({"array": ARRAY, "device": "cpu"}, ValueError, "device is given, but"),
    ({"array": ARRAY, "optimizer": rt.FusedSGD(1.0)}, ValueError, "optimizer is given, but"),
]


def name_of(part):
    return ", ".join(f"{name}={value!s:.9}" for name, value in part.items()) if part else None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    OPTIONS,
    ids=lambda part: name_of(part) if isinstance(part, dict) else "",
)
def test_wrong_options(options, error, words):
    makers = [(kind, SIZE) for kind in MODULES] + [(rt.RobeTables, (2, 6, (10, 20)))]
    for kind, arguments in makers:
        with pytest.raises(error, match=words):
            kind(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((2, 6, (10,)), ValueError, "num_embeddings"),
        ((2, 6, (10, 0)), ValueError, r"num_embeddings\[1\] is 0"),
        ((2, 6, (10, "20")), TypeError, r"num_embeddings\[1\] must be an integer"),
        ((0, 6, ()), ValueError, "num_tables"),
        ((2, 0, (10, 20)), ValueError, "embedding_dim is 0"),
        ((2, 6), ValueError, "num_embeddings is None, .* give array_size or array"),
    ],
    ids=str,
)
def test_wrong_tables(arguments, error, words):
    with pytest.raises(error, match=words):
        rt.RobeTables(*arguments)


def test_the_array_of_a_spec_has_its_size():
    with pytest.raises(ValueError, match="has 50 elements, but the spec reads 60; make them equal"):
        rt.RobeTables.from_spec(rt.RobeTables(2, 6, array_size=60).spec, ARRAY)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((0,), {}, ValueError, "size is 0"),
        ((1.5,), {}, TypeError, "size must be an integer"),
        ((9,), {"scale": float("inf")}, ValueError, "scale"),
        ((9,), {"scale": "1"}, TypeError, "scale"),
        ((9,), {"optimizer": rt.FusedSGD}, TypeError, "must be a FusedSGD, a FusedAdagrad or None"),
    ],
)
def test_wrong_arrays(arguments, options, error, words):
    with pytest.raises(error, match=words):
        rt.RobeArray(*arguments, **options)


def test_values_of_two_dimensions_are_no_array():
    with pytest.raises(ValueError, match=r"shape \(2, 3\); .* use values.flatten\(\)"):
        rt.RobeArray.from_tensor(torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bool], ids=str)
def test_dtypes_of_ids(dtype):
    ids = torch.ones(3).to(dtype)
    refused(lambda: rt.RobeEmbedding(*SIZE)(ids), lambda: functional.embedding(ids, TABLE))
    if dtype.is_floating_point:
        refused(
            lambda: rt.RobeEmbeddingBag(*SIZE)(ids, OFFSETS),
            lambda: functional.embedding_bag(ids, TABLE, OFFSETS),
        )
    else:  # which torch takes in some bags
        with pytest.raises(TypeError, match="indices has dtype"):
            rt.RobeEmbeddingBag(*SIZE)(ids, OFFSETS)
    with pytest.raises(TypeError, match=r"indices has dtype .*: use indices.to\(torch.int64\)"):
        rt.RobeTables(3, 6, array_size=50)(ids)


@pytest.mark.parametrize("id_", [10, -1])
def test_ids_outside_the_table(id_):
    ids = torch.tensor([0, id_])
    words = refused(lambda: rt.RobeEmbedding(*SIZE)(ids), lambda: functional.embedding(ids, TABLE))
    assert str(id_) in words
    refused(
        lambda: rt.RobeEmbeddingBag(*SIZE)(ids, OFFSETS),
        lambda: functional.embedding_bag(ids, TABLE, OFFSETS),
    )
    with pytest.raises(ValueError, match=str(id_)):
        rt.RobeTables(2, 6, (10, 10))(ids)


BAGS = {
    "vector without offsets": ((IDS,), {}),
    "matrix with offsets": ((IDS[None], OFFSETS), {}),
    "three dimensions": ((IDS[None, None],), {}),
    "no dimension": ((IDS[0],), {}),
    "offsets of two dimensions": ((IDS, OFFSETS[None]), {}),
    "offsets of floats": ((IDS, OFFSETS.float()), {}),
    "offsets that begin late": ((IDS, torch.tensor([1, 2])), {}),
    "offsets beyond the ids": ((IDS, torch.tensor([0, 4])), {}),
    "weights of a mean": ((IDS, OFFSETS, torch.ones(3)), {"mode": "mean"}),
    "weights of a maximum": ((IDS, OFFSETS, torch.ones(3)), {"mode": "max"}),
    "weights of another shape": ((IDS, OFFSETS, torch.ones(2)), {"mode": "sum"}),
    "weights of another dtype": ((IDS, OFFSETS, torch.ones(3).double()), {"mode": "sum"}),
    "another mode": ((IDS, OFFSETS), {"mode": "min"}),
    "a list of modes": ((IDS, OFFSETS), {"mode": ["sum"]}),
    "no offsets at all": ((IDS, OFFSETS[:0]), {"include_last_offset": True}),
}


@pytest.mark.parametrize("name", BAGS)
def test_bags_that_torch_refuses(name):
    (ids, *rest), options = BAGS[name]
    offsets, weights = [*rest, None, None][:2]
    module = rt.RobeEmbeddingBag(*SIZE, **options)
    refused(
        lambda: module(ids, offsets, weights),
        lambda: functional.embedding_bag(
            ids, TABLE, offsets, per_sample_weights=weights, **{"mode": "mean", **options}
        ),
    )


@pytest.mark.parametrize(
    ("offsets", "words"),
    [([0, 2, 1], "offsets"), ([0, 1, 2], "the last offset must be the number of indices")],
)
def test_offsets_that_torch_reads_all_the_same(offsets, words):
    """It would read other ids than those of the bag, or leave some out."""
    bag = rt.RobeEmbeddingBag(*SIZE, include_last_offset=True)
    with pytest.raises(ValueError, match=words):
        bag(IDS, torch.tensor(offsets))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_no_bags_of_some_ids(mode):
    """torch reads memory that is not its own where the only offset is 0."""
    bag = rt.RobeEmbeddingBag(*SIZE, mode=mode, include_last_offset=True, padding_idx=0)
    with pytest.raises(ValueError, match="the last offset must be the number of indices"):
        bag(IDS, torch.tensor([0]))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 1)])
def test_shapes_of_ids_of_tables(shape):
    with pytest.raises(ValueError, match=r"expected \(..., num_tables\) with num_tables = 2"):
        rt.RobeTables(2, 6, array_size=50)(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((IDS, torch.tensor([0, 2])), ValueError, "offsets"),
        ((IDS, torch.tensor([], dtype=torch.int64)), ValueError, "offsets"),
        ((IDS, torch.tensor([0, 2, 4])), ValueError, "offsets ends at 4"),
        ((IDS, torch.tensor([1, 2, 3])), ValueError, "offsets"),
        ((IDS.float(), torch.tensor([0, 1, 3])), TypeError, "indices has dtype torch.float32"),
        ((IDS, [0, 1, 3]), TypeError, "offsets must be a Tensor, got list"),
        ((IDS, torch.tensor([0, 1, 3]), "min"), ValueError, "mode"),
        (
            (IDS, torch.tensor([0, 1, 3]), ["sum", "max"]),
            ValueError,
            "choose one of sum, mean, max",
        ),
        (
            (IDS, torch.tensor([0, 1, 3]), ("sum", "max")),
            ValueError,
            "choose one of sum, mean, max",
        ),
        ((IDS, torch.tensor([0, 1, 3]), "mean", torch.ones(3)), ValueError, "per_sample_weights"),
        ((IDS, torch.tensor([0, 1, 3]), "sum", torch.ones(2)), ValueError, "per_sample_weights"),
        ((IDS, torch.tensor([0, 1, 3]), "sum", torch.ones(3).int()), TypeError, "has dtype"),
        ((IDS[None], torch.tensor([0, 1, 3])), ValueError, "indices"),
    ],
)
def test_wrong_bags_of_tables(arguments, error, words):
    with pytest.raises(error, match=words):
        rt.RobeTables(2, 6, array_size=50).bags(*arguments)


def test_what_is_no_tensor():
    for module in (rt.RobeEmbedding(*SIZE), rt.RobeTables(1, 6, array_size=50)):
        with pytest.raises(TypeError):
            module([1, 2])
    with pytest.raises((TypeError, AttributeError)):
        rt.RobeEmbeddingBag(*SIZE)([[1, 2]])
    with pytest.raises(TypeError, match=r"must be a Tensor, got .*; use torch.tensor"):
        rt.RobeTables(2, 6, array_size=50)(np.array([[1, 2]]))


@pytest.mark.parametrize("kind", [rt.RobeEmbedding, rt.RobeEmbeddingBag])
def test_a_trained_table_has_two_dimensions(kind):
    with pytest.raises(ValueError, match=r"shape \(5,\); it must be \(num_embeddings, emb"):
        kind.from_pretrained(torch.ones(5))


def test_wrong_constants_of_a_fused_optimizer():
    for kind in (rt.FusedSGD, rt.FusedAdagrad):
        with pytest.raises(ValueError, match="lr is -1"):
            kind(-1.0)
        with pytest.raises(TypeError, match="lr must be a number, got the string"):
            kind("0.1")
    with pytest.raises(ValueError, match="eps is -1"):
        rt.FusedAdagrad(0.1, -1)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [rt.FusedSGD, rt.FusedAdagrad])
def test_wrong_learning_rates_move_nothing(kind, lr):
    module = rt.RobeEmbedding(*SIZE, optimizer=kind(torch.tensor(lr)))
    state = [each.clone() for each in module.array.state_dict().values()]
    with pytest.raises(ValueError, match="lr"):
        module(IDS).sum().backward()
    assert all(map(torch.equal, state, module.array.state_dict().values()))


def test_an_id_outside_a_bag_of_one_is_an_error_of_bags():
    """Such bags are read as rows, of which torch raises another error."""
    module = rt.RobeEmbeddingBag(*SIZE, mode="max")
    with pytest.raises(RuntimeError, match="is 10, but table 0 has num_embeddings = 10"):
        module(torch.tensor([[1], [10]]))
