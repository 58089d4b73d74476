"""Models whose tables are replaced."""

import copy

import pytest
import torch
from torch import nn

import robe_numba.torch as rt
from tests.torch.twins import table_of

IDS = torch.tensor([[1, 8, 3], [3, 3, 0]])


class Model(nn.Module):
    """Tables in containers; the first is used under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Embedding(2000, 8, padding_idx=3)
        self.deep = nn.ModuleDict({"bags": nn.Sequential(nn.EmbeddingBag(3000, 4, mode="sum"))})
        self.again = self.first
        self.small = nn.Embedding(10, 8)
        self.head = nn.Linear(12, 1)

    def forward(self, ids):
        rows = self.first(ids).sum(1) + self.again(ids).mean(1) + self.small(ids).sum(1)
        return self.head(torch.cat([rows, self.deep["bags"](ids)], dim=1))


def test_large_tables_read_one_array():
    model = Model()
    before = model(IDS).shape
    same, report = rt.compress(model, compression=100)
    assert same is model
    (array,) = report.arrays
    assert array.size == (2000 * 8 + 3000 * 4) // 100
    assert model.first is model.again
    assert isinstance(model.first, rt.RobeEmbedding)
    assert isinstance(model.deep["bags"][0], rt.RobeEmbeddingBag)
    assert type(model.small) is nn.Embedding
    assert model.first.array is model.deep["bags"][0].array is array
    assert (model.first.padding_idx, model.deep["bags"][0].mode) == (3, "sum")
    assert {name for name, _ in model.named_parameters()} == {
        "first.array.weight",
        "small.weight",
        "head.weight",
        "head.bias",
    }
    out = model(IDS)
    assert out.shape == before
    out.sum().backward()
    assert array.weight.grad.any()


def test_the_report_is_a_table():
    _, report = rt.compress(Model(), compression=100)
    assert [tuple(table) for table in report.tables] == [
        ("first, again", 2000, 8, 64_000, 640),
        ("deep.bags.0", 3000, 4, 48_000, 480),
        ("small", 10, 8, 320, 320),
    ]
    assert (report.bytes_before, report.bytes_after) == (112_320, 1440)
    header, *lines, total = str(report).splitlines()
    assert header.split() == ["module", "rows", "d", "before", "after"]
    assert [line.split()[:1] for line in lines] == [["first,"], ["deep.bags.0"], ["small"]]
    assert lines[0].startswith("first, again  2,000  8")
    assert total.startswith("total")
    assert len({len(line) for line in str(report).splitlines()}) == 1


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_model_that_is_itself_a_table(kind):
    model, report = rt.compress(kind(1000, 8).eval())
    assert isinstance(model, rt.RobeEmbedding if kind is nn.Embedding else rt.RobeEmbeddingBag)
    assert not model.training
    assert report.tables[0].module == "(the model)"
    assert model(IDS).shape == kind(10, 8)(IDS).shape


def test_tied_weights_stay_tied():
    model = nn.ModuleList([nn.Embedding(1000, 8), nn.EmbeddingBag(1000, 8), nn.Embedding(1000, 8)])
    model[1].weight = model[0].weight
    _, report = rt.compress(model)
    ids = torch.tensor([[5], [999]])
    assert torch.equal(model[0](ids)[:, 0], model[1](ids))
    assert not torch.equal(model[0](ids), model[2](ids))
    assert report.arrays[0].size == 2 * 1000 * 8 // 100
    assert [table.bytes_after for table in report.tables] == [320, 0, 320]


def test_a_weight_that_a_layer_uses_is_refused_with_nothing_replaced():
    model = nn.ModuleDict({"a": nn.Embedding(2000, 8), "table": nn.Embedding(1000, 8)})
    model["head"] = nn.Linear(8, 1000)
    model["head"].weight = model["table"].weight
    with pytest.raises(ValueError, match=r"weight of table is also that of head.*exclude=\['tab"):
        rt.compress(model)
    assert type(model["a"]) is type(model["table"]) is nn.Embedding
    rt.compress(model, exclude=["table"])
    assert isinstance(model["a"], rt.RobeEmbedding)
    assert model["head"].weight is model["table"].weight


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}], ids=str)
def test_what_rows_cannot_have_is_refused_with_nothing_replaced(option):
    (name,) = option
    model = nn.Sequential(nn.Embedding(1000, 8), nn.Sequential(nn.Embedding(1000, 8, **option)))
    with pytest.raises(ValueError, match=rf"1\.0 has {name}.*exclude=\['1\.0'\] keeps it"):
        rt.compress(model)
    assert type(model[0]) is nn.Embedding
    rt.compress(model, exclude={"1.0"})
    assert type(model[1][0]) is nn.Embedding


def compiled(table):
    return torch.compile(table, backend="eager")


def hooked(table):
    table.register_forward_hook(lambda module, given, out: 2 * out)
    return table


def normed(table):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(table)


def patched(table):
    read = table.forward
    table.forward = lambda ids: 2 * read(ids)
    return table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (compiled, "is compiled"),
        (hooked, "has hooks"),
        (normed, "has hooks"),
        (patched, "has a forward"),
    ],
)
def test_what_would_be_lost_is_refused_with_nothing_replaced(change, words):
    model = nn.Sequential(nn.Embedding(1000, 8), change(nn.Embedding(1000, 8)))
    before = model[1](IDS)
    with pytest.raises(ValueError, match=rf"1\S* {words}.*exclude=\['1\S*'\] keeps it"):
        rt.compress(model)
    assert type(model[0]) is nn.Embedding
    assert torch.equal(model[1](IDS), before)


def test_a_sparse_gradient_becomes_dense():
    model, _ = rt.compress(nn.Embedding(1000, 8, sparse=True))
    model(IDS).sum().backward()
    assert not model.array.weight.grad.is_sparse


def test_frozen_tables_and_dtypes_have_arrays_of_their_own():
    model = nn.ModuleDict(
        {
            "learns": nn.Embedding(1000, 8),
            "frozen": nn.Embedding(1000, 8).requires_grad_(False),
            "wide": nn.Embedding(1000, 8, dtype=torch.float64),
            "meta": nn.Embedding(1000, 8, device="meta"),
        }
    )
    _, report = rt.compress(model, optimizer=rt.FusedSGD(0.1))
    weights = {name: module.array.weight for name, module in model.items()}
    assert len(report.arrays) == len({id(weight) for weight in weights.values()}) == 4
    assert weights["wide"].dtype == torch.float64
    assert weights["meta"].is_meta
    assert not model["frozen"](IDS).requires_grad
    assert model["frozen"].array.optimizer is None
    assert model["learns"](IDS).requires_grad


def test_frozen_tables_stay_frozen_without_an_optimizer():
    model, _ = rt.compress(nn.Embedding(1000, 8).requires_grad_(False))
    assert not model.array.weight.requires_grad


def test_training_mode_stays():
    model = nn.Sequential(nn.Embedding(1000, 8).eval(), nn.Embedding(1000, 8))
    rt.compress(model)
    assert [module.training for module in model] == [False, True]


def test_fresh_values_have_the_scale_of_the_tables():
    table = nn.Embedding(100_000, 8)
    with torch.no_grad():
        table.weight.mul_(0.05)
    model, _ = rt.compress(table, compression=10)
    size = model.array.weight.detach().square().mean().sqrt()
    assert float(size) == pytest.approx(0.05, rel=0.02)


def test_tables_below_min_rows_are_kept():
    model = nn.Sequential(nn.Embedding(999, 8), nn.Embedding(1000, 8))
    rt.compress(model)
    assert type(model[0]) is nn.Embedding
    rt.compress(model, min_rows=999)
    assert isinstance(model[0], rt.RobeEmbedding)


class Scaled(nn.Embedding):
    """A subclass, whose forward is another."""

    def forward(self, ids):
        return 2 * super().forward(ids)


def test_subclasses_are_kept():
    model = nn.Sequential(Scaled(1000, 8), nn.Embedding(1000, 8))
    rt.compress(model)
    assert type(model[0]) is Scaled


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"compression": 0}, ValueError, "compression is 0; it must be positive"),
        ({"compression": -1}, ValueError, "compression"),
        ({"compression": "100"}, TypeError, "compression"),
        ({"min_rows": 0}, ValueError, "min_rows is 0"),
        ({"min_rows": 1.5}, TypeError, "min_rows must be an integer"),
        ({"min_rows": 2001}, ValueError, "no nn.Embedding or nn.EmbeddingBag of at least 2001"),
        ({"init": "zeros"}, ValueError, "init is 'zeros'; choose one of fresh, project"),
        ({"exclude": ["fist"]}, ValueError, "exclude has 'fist', which is not an embedding"),
        ({"exclude": "0"}, TypeError, r"exclude is the string '0'; use a list: exclude=\['0'\]"),
        ({"block_size": 0}, ValueError, "block_size is 0"),
        ({"block_size": 161}, ValueError, "block_size .* is 161 but array_size .* is only 160"),
        ({"alignment": 9}, ValueError, "alignment is 9"),
        ({"optimizer": torch.optim.SGD}, TypeError, "must be a FusedSGD, a FusedAdagrad or None"),
    ],
    ids=lambda part: str(part) if isinstance(part, dict) else None,
)
def test_wrong_arguments_replace_nothing(options, error, words):
    model = nn.Sequential(nn.Embedding(2000, 8))
    with pytest.raises(error, match=words):
        rt.compress(model, **options)
    assert type(model[0]) is nn.Embedding


def test_projected_values_approximate_the_tables():
    model = Model()
    tables = model.first.weight.detach().clone(), model.deep["bags"][0].weight.detach().clone()
    rt.compress(model, compression=4, init="project")
    for module, table in zip((model.first, model.deep["bags"][0]), tables, strict=True):
        table = table.clone()
        table[3] = 0 if module.padding_idx == 3 else table[3]
        ours = table_of(module, module.array.weight.detach())
        # The best array leaves less than the table's own sum of squares.
        assert 0 < (ours - table).square().sum() < table.square().sum()


def clicks(rows=4096):
    """Ids of two features, and whether a row is clicked, which the ids alone decide."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, (rows, 2), generator=generator)
    scores = torch.randn(2, 1000, generator=generator)
    return ids, (scores[0, ids[:, 0]] + scores[1, ids[:, 1]] > 0).float()


class Scorer(nn.Module):
    """A table for each of two features."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(1000, 8) for _ in range(2)])
        self.head = nn.Linear(8, 1)

    def forward(self, ids):
        return self.head(self.tables[0](ids[:, 0]) + self.tables[1](ids[:, 1])).squeeze(1)


def test_projection_saves_loss_of_a_trained_model():
    torch.manual_seed(0)
    ids, labels = clicks()
    model = Scorer()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    losses = {}
    for init in ("fresh", "project"):
        compressed, _ = rt.compress(copy.deepcopy(model), compression=4, init=init)
        with torch.no_grad():
            logits = compressed(ids)
        losses[init] = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    # Without ids the loss would be log 2, which is 0.69.
    assert losses["project"] < 0.5 < 0.69 < losses["fresh"]


def test_only_models_are_compressed():
    with pytest.raises(TypeError, match=r"model must be an nn.Module, got the string 'model'"):
        rt.compress("model")
