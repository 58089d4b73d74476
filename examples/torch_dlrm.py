"""A DLRM in plain PyTorch, first with `nn.EmbeddingBag` tables and then with compressed ones.

    python examples/torch_dlrm.py

generates a click log like Criteo's and trains the model on it with uncompressed tables. Then it
compresses the tables of a new model, which takes one line, and trains that. It prints the size of
each table before and after, and for both models the memory of the embeddings, the AUC on the last
tenth of the rows and the seconds of training. This takes less than a minute.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import robe_numba.torch as rt
from data_tools import Dataset, Split, ingest
from data_tools.synthetic.generator import Generator
from robe_numba.formatting import format_bytes
from robe_numba.metrics import auc

DIM, BOTTOM, TOP = 16, (64,), (128, 64)
BATCH_SIZE, LR, EPS = 256, 0.01, 0.003  # eps of the embeddings' Adagrad
SCALE = 0.01  # of the number of Criteo's ids


class DLRM(nn.Module):
    """Scores dense features (batch, num_dense) and row numbers (batch, num_tables) of the tables.

    Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
    """

    def __init__(self, num_dense: int, table_rows: list[int]):
        super().__init__()
        vectors = len(table_rows) + 1
        self.bottom = mlp(num_dense, *BOTTOM, DIM)
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True) for rows in table_rows
        )
        self.top = mlp(DIM + vectors * (vectors - 1) // 2, *TOP, 1)[:-1]
        first, second = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", first * vectors + second, persistent=False)
        for table in self.tables.parameters():  # so small that unseen ids hardly affect a score
            nn.init.uniform_(table, -1e-3, 1e-3)

    def forward(self, dense: Tensor, indices: Tensor) -> Tensor:
        features = self.bottom(dense)
        embeddings = [table(indices[:, t, None]) for t, table in enumerate(self.tables)]
        vectors = torch.stack([features, *embeddings], dim=1)
        products = (vectors @ vectors.mT).flatten(1).index_select(1, self.pairs)
        return self.top(torch.cat([features, products], dim=1)).squeeze(1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=(2 / (fan_in + fan_out)) ** 0.5)
        nn.init.normal_(linear.bias, std=(1 / fan_out) ** 0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def batches(split: Split, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Dense features, row numbers and labels; shuffled by a seed, or in order."""
    for batch in split.batches(BATCH_SIZE, shuffle_seed=seed):
        indices = torch.tensor(batch.indices, dtype=torch.int64)
        yield torch.tensor(batch.dense), indices, torch.tensor(batch.labels)


def train(model: DLRM, split: Split, seed: int) -> None:
    """Train for one epoch."""
    mlps = [*model.bottom.parameters(), *model.top.parameters()]
    tables = [p for p in model.tables.parameters() if p.requires_grad]  # not a fused array
    groups = [{"params": mlps}, {"params": tables, "eps": EPS}]
    optimizer = torch.optim.Adagrad(groups, lr=LR)
    loss_function = nn.BCEWithLogitsLoss()
    torch.sparse.check_sparse_tensor_invariants.disable()  # Adagrad warns if unset
    model.train()
    for dense, indices, labels in batches(split, seed):
        optimizer.zero_grad()
        loss_function(model(dense, indices), labels).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: DLRM, split: Split) -> float:
    """The AUC."""
    model.eval()
    scored = [(labels, model(dense, indices)) for dense, indices, labels in batches(split)]
    labels, logits = map(torch.cat, zip(*scored, strict=True))
    return auc(labels.numpy(), logits.numpy())


def make_data(folder: Path, rows: int) -> Dataset:
    """Generate a log and ingest it; ids are numbered from 0 in each column, as tables need."""
    folder.mkdir(parents=True, exist_ok=True)
    Generator(scale=SCALE).write(folder / "clicks.tsv", rows)
    ingest(folder / "clicks.tsv", folder / "data", ids="appearance")
    return Dataset(folder / "data")


def compare(data: Dataset, compression: float, seed: int) -> None:
    """Train both models, and print their sizes and results."""
    table_rows = [column.rows for column in data.manifest.vocabulary]
    torch.manual_seed(seed)
    model = DLRM(data.schema.num_dense, table_rows)
    num_bytes = sum(table.nbytes for table in model.tables.parameters())
    print_result("uncompressed", num_bytes, *train_and_test(model, data, seed))

    torch.manual_seed(seed)
    model = DLRM(data.schema.num_dense, table_rows)
    model, report = rt.compress(model, compression, optimizer=rt.FusedAdagrad(LR, EPS))
    print(report)
    print_result("compressed", report.bytes_after, *train_and_test(model, data, seed))


def train_and_test(model: DLRM, data: Dataset, seed: int) -> tuple[float, float]:
    """The AUC on the test rows, and the seconds of training."""
    begun = time.perf_counter()
    train(model, data.split("train"), seed)
    seconds = time.perf_counter() - begun
    return evaluate(model, data.split("test")), seconds


def print_result(name: str, num_bytes: int, area: float, seconds: float) -> None:
    """Print the results of a model in one line."""
    size = format_bytes(num_bytes)
    print(f"{name}: {size} of embeddings, test AUC {area:.4f}, trained in {seconds:.1f} s")


def main() -> None:
    """Read the command line and compare both models."""
    parser = argparse.ArgumentParser(description="Train a DLRM, and the same compressed.")
    parser.add_argument("--rows", type=int, default=300_000, help="of the generated log")
    parser.add_argument("--compression", type=float, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the models")
    parser.add_argument("--output", type=Path, help="folder in which the log is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # for layers this small, waiting for others takes longer than working
    with TemporaryDirectory() as temporary:
        data = make_data(arguments.output or Path(temporary), arguments.rows)
        compare(data, arguments.compression, arguments.seed)


if __name__ == "__main__":
    main()
