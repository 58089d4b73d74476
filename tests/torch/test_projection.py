"""Arrays that approximate trained tables."""

import numpy as np
import pytest
import torch
from torch import nn

import robe_numba.torch as rt
from tests.support import naive
from tests.torch.twins import table_of


def design(modules):
    """The matrix (elements of all tables, m) by which an array gives the tables."""
    lines = []
    for module in modules:
        for t, rows in enumerate(module.spec.num_embeddings):
            for x in range(rows):
                for place, sign in naive.places(module.spec, t, x):
                    lines.append(np.zeros(module.spec.array_size))
                    lines[-1][place] = sign
    return np.array(lines)


@pytest.mark.parametrize("sign", [True, False])
def test_it_is_the_least_squares_fit(sign):
    array = rt.RobeArray(50, dtype=torch.float64)
    options = {"array": array, "block_size": 4, "sign": sign}
    one, several = rt.RobeEmbedding(9, 6, **options), rt.RobeTables(2, 3, (5, 4), **options)
    tables = [torch.randn(9, 6), torch.randn(5, 3), torch.randn(4, 3)]
    before = array.weight.detach().clone()
    rt.project({one: tables[0], several: tables[1:]})
    matrix = design([one, several])
    wanted = torch.cat([table.flatten() for table in tables]).double().numpy()
    fit, *_ = np.linalg.lstsq(matrix, wanted, rcond=None)
    read = matrix.any(axis=0)
    weight = array.weight.detach()
    np.testing.assert_allclose(weight.numpy()[read], fit[read], atol=1e-12)
    assert torch.equal(weight[~torch.from_numpy(read)], before[~torch.from_numpy(read)])


@pytest.mark.parametrize("kind", [rt.RobeEmbedding, rt.RobeEmbeddingBag])
def test_a_padding_row_is_not_read(kind):
    table, other = torch.randn(2, 9, 4)
    other[[0, 1, 3, 4, 5, 6, 7, 8]] = table[[0, 1, 3, 4, 5, 6, 7, 8]]
    arrays = [
        kind.from_pretrained(each, padding_idx=2, array_size=11).array.weight
        for each in (table, other)
    ]
    assert arrays[0].abs().min() > 0.001  # all elements are read
    assert torch.equal(*arrays)


def test_chunks_of_rows_add_up(monkeypatch):
    monkeypatch.setattr("robe_numba.torch.projection.CHUNK", 7)
    arrays = []
    table = torch.randn(40, 3)
    for _ in range(2):
        module = rt.RobeEmbedding(40, 3, array_size=9, dtype=torch.float64)
        rt.project({module: table})
        arrays.append(module.array.weight.detach())
        monkeypatch.undo()
    torch.testing.assert_close(*arrays)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [rt.RobeEmbedding, rt.RobeEmbeddingBag])
def test_from_pretrained(kind, dtype):
    table = torch.randn(9, 4).to(dtype)
    module = kind.from_pretrained(table, padding_idx=2, array_size=20_000)
    assert module.array.weight.dtype == dtype
    assert not module.array.weight.requires_grad
    assert module.padding_idx == 2
    # So large that no two blocks overlap, so that nothing is lost.
    assert len({place for x in range(9) for place, _ in naive.places(module.spec, 0, x)}) == 36
    kept = [0, 1, *range(3, 9)]
    assert torch.equal(table_of(module, module.array.weight)[kept], table[kept])
    assert kind.from_pretrained(table, freeze=False).array.weight.requires_grad


def test_from_pretrained_passes_the_options_of_bags_on():
    table = torch.randn(9, 4)
    options = {"mode": "max", "include_last_offset": True}
    ours = rt.RobeEmbeddingBag.from_pretrained(table, array_size=20_000, **options)
    theirs = nn.EmbeddingBag.from_pretrained(table, **options)
    given = torch.tensor([1, 2, 8, 4]), torch.tensor([0, 1, 1, 4])
    torch.testing.assert_close(ours(*given), theirs(*given))


def test_from_pretrained_into_a_shared_array():
    array = rt.RobeArray(20_000, dtype=torch.float64)
    table = torch.randn(9, 4)
    module = rt.RobeEmbedding.from_pretrained(table, array=array)
    assert module.array is array
    torch.testing.assert_close(module(torch.arange(9)), table.double())
    embedding = nn.Embedding.from_pretrained(table)
    assert embedding.weight.requires_grad == array.weight.requires_grad


@pytest.mark.parametrize("kind", [rt.RobeEmbedding, rt.RobeEmbeddingBag])
def test_what_an_optimizer_moves_is_not_frozen(kind):
    table, array = torch.randn(9, 4), rt.RobeArray(50, optimizer=rt.FusedSGD(0.1))
    before = array.weight.clone()
    with pytest.raises(ValueError, match="has an optimizer, which steps; use False"):
        kind.from_pretrained(table, array=array)
    assert torch.equal(array.weight, before)
    module = kind.from_pretrained(table, freeze=False, array=array)
    assert module(torch.tensor([[1]])).requires_grad


def test_wrong_tables_are_refused_with_nothing_written():
    array = rt.RobeArray(50)
    one, other = rt.RobeEmbedding(9, 6, array=array), rt.RobeEmbedding(5, 6, array=array)
    apart = rt.RobeEmbedding(9, 6, array_size=50)
    free = rt.RobeEmbedding(None, 6, array=array)
    before = array.weight.detach().clone()
    wrong = [
        ({one: torch.ones(9, 6), other: torch.ones(9, 6)}, r"shapes \[\(9, 6\)\]; expected"),
        ({one: torch.ones(9, 6), apart: torch.ones(9, 6)}, "read 2 arrays; call project once per"),
        ({free: torch.ones(9, 6)}, "num_embeddings is None"),
        ({}, "read 0 arrays"),
    ]
    for tables, words in wrong:
        with pytest.raises(ValueError, match=words):
            rt.project(tables)
        assert torch.equal(array.weight, before)
    with pytest.raises(TypeError, match="mapping of modules"):
        rt.project([one])
