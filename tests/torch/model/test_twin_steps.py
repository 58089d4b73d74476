"""A DLRM with lists of ids in torch, with the same initial weights, makes the same steps."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

from robe_numba.dlrm import DLRM, KINDS
from tests.dlrm.multi_hot import VOCABULARY, batch_of, config_of, embedding_of
from tests.support import naive

IDS = 25  # of which batches are drawn
STEPS, LR = 20, 0.05
POOLING = ("sum", "mean", "max")
OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr, eps=1e-10),
}


class FullBags(nn.Module):
    """An `nn.EmbeddingBag` for each feature, with a row for each known id and one for the rest."""

    def __init__(self, embedding):
        super().__init__()
        array = torch.tensor(embedding.parameters()["array"]).view(-1, embedding.embedding_dim)
        tables = array.split([len(ids) + 1 for ids in VOCABULARY])
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(
                *table.shape, mode=mode, include_last_offset=True, _weight=table.clone()
            )
            for table, mode in zip(tables, ("sum", *POOLING), strict=True)
        )
        rows = [{int(x): row for row, x in enumerate(ids, 1)} for ids in VOCABULARY]
        self.rows = [torch.tensor([known.get(x, 0) for x in range(IDS)]) for known in rows]

    def pooled(self, table, ids, offsets, weights):
        return self.bags[table](self.rows[table][ids], offsets, weights)

    def arrays(self):
        return {"array": torch.cat([bag.weight.view(-1) for bag in self.bags])}


class ReadBags(nn.Module):
    """Tables that are read from shared arrays by their positions and signs."""

    def __init__(self, embedding):
        super().__init__()
        self.kind = embedding.kind
        specs = embedding.describe()["specs"]
        arrays = embedding.parameters().items()
        self.shared = nn.ParameterDict({n: torch.tensor(array) for n, array in arrays})
        self.reads = {}
        for table in range(4):
            for name, spec in ((n, part.spec) for n, part in embedding._parts.items()):
                rows = np.array([self.row(specs, name, table, x) for x in range(IDS)])
                read = torch.tensor([naive.places(spec, table, x) for x in rows])
                self.reads[name, table] = read.unbind(-1)

    def row(self, specs, name, table, x):
        """Which row of an array's table an id reads."""
        if self.kind != "qr":
            return x
        row = {int(y): row for row, y in enumerate(VOCABULARY[table], 1)}.get(x, 0)
        size = specs["remainder"]["num_embeddings"][table]
        return row // size if name == "quotient" else row % size

    def pooled(self, table, ids, offsets, weights):
        weight = 1
        for name, array in self.shared.items():
            positions, signs = self.reads[name, table]
            weight = weight * array[positions] * signs
        return functional.embedding_bag(
            ids, weight, offsets, mode=("sum", *POOLING)[table], per_sample_weights=weights,
            include_last_offset=True,
        )  # fmt: skip

    def arrays(self):
        return dict(self.shared)


def dot(vectors):
    """The dense vector, and the dot product of each pair."""
    rows, columns = torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1)
    products = torch.bmm(vectors, vectors.mT)
    return torch.cat([vectors[:, 0], products[:, rows, columns]], dim=1)


def cat(vectors):
    return vectors.flatten(1)


INTERACTIONS = {"dot": dot, "cat": cat, "dcn": cat}


class Cross(nn.Module):
    """The layers of a cross layer."""

    def __init__(self, rank, v, u, bias):
        super().__init__()
        self.v, self.u = nn.Linear(v.shape[1], rank, bias=False), nn.Linear(rank, len(bias))
        self.v.weight, self.u.weight, self.u.bias = map(nn.Parameter, (v, u, bias))


class Twin(nn.Module):
    """The whole model, from the initial weights of ours."""

    def __init__(self, model):
        super().__init__()
        self.interaction = INTERACTIONS[model.config.interaction]
        self.embedding = (FullBags if model.embedding.kind == "full" else ReadBags)(model.embedding)
        self.parts = nn.ModuleDict()
        for part in ("bottom", "top"):
            widths = getattr(model.config, f"{part}_widths")
            self.parts[part] = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
            for number, layer in enumerate(self.parts[part]):
                for name in ("weight", "bias"):
                    given = model.parameters()[f"{part}.{number}.{name}"]
                    setattr(layer, name, nn.Parameter(torch.tensor(given)))
        self.cross = nn.ModuleList()
        for number, rank in enumerate(model.config.cross_ranks):
            weights = [model.parameters()[f"cross.{number}.{n}"] for n in ("v", "u", "bias")]
            self.cross.append(Cross(rank, *map(torch.tensor, weights)))

    def forward(self, dense, indices, lists):
        values, offsets, weights = lists
        rows, x = len(dense), torch.tensor(dense)
        for layer in self.parts["bottom"]:
            x = layer(x).relu()
        vectors = [x]
        ones = torch.arange(rows + 1)
        ids = torch.tensor(indices.astype(np.int64))
        vectors.append(self.embedding.pooled(0, ids[:, 0], ones, None))
        for feature, mode in enumerate(POOLING):
            bounds = torch.tensor(offsets[feature * rows : (feature + 1) * rows + 1])
            own = slice(int(bounds[0]), int(bounds[-1]))
            factors = torch.tensor(weights[own]).to(x.dtype) if mode == "sum" else None
            ids = torch.tensor(values[own].astype(np.int64))
            vectors.append(self.embedding.pooled(feature + 1, ids, bounds - bounds[0], factors))
        x = first = self.interaction(torch.stack(vectors, dim=1))
        for layer in self.cross:
            x = first * layer.u(layer.v(x)) + x
        *hidden, last = self.parts["top"]
        for layer in hidden:
            x = layer(x).relu()
        return last(x)[:, 0]

    def arrays(self):
        """The weights by our names."""
        found = {f"embedding.{n}": a for n, a in self.embedding.arrays().items()}
        for part, layers in self.parts.items():
            for number, layer in enumerate(layers):
                found |= {f"{part}.{number}.{n}": a for n, a in layer.named_parameters()}
        for number, layer in enumerate(self.cross):
            weights = {"v": layer.v.weight, "u": layer.u.weight, "bias": layer.u.bias}
            found |= {f"cross.{number}.{n}": a for n, a in weights.items()}
        return {name: array.detach().numpy() for name, array in found.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_a_twin_in_torch_makes_the_same_steps(kind, optimizer, interaction):
    embedding = embedding_of(kind, POOLING, optimizer=optimizer)
    config = config_of(POOLING, bottom=(8,), top=(12, 6), interaction=interaction, cross_rank=3)
    model = DLRM(config, embedding, optimizer=optimizer)
    twin = Twin(model)
    steps = OPTIMIZERS[optimizer](twin.parameters(), lr=LR)
    before = {name: array.copy() for name, array in model.parameters().items()}
    for step in range(STEPS):
        *inputs, lists = batch_of(64, POOLING, seed=step, weighted=(0,))
        loss = functional.binary_cross_entropy_with_logits(
            twin(*inputs[:2], lists), torch.tensor(inputs[2])
        )
        found = model.train_step(*inputs, LR, multi_hot=lists)
        assert found == pytest.approx(float(loss.detach()), rel=1e-5)
        steps.zero_grad()
        loss.backward()
        steps.step()
    expected = twin.arrays()
    for name, array in model.parameters().items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(array - before[name]).max() > 1e-3, name
