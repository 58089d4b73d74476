import re
import sys

import pytest
import torch

import robe_numba.torch as rt
from data_tools import Dataset, ingest
from data_tools.synthetic.generator import Generator
from examples import torch_dlrm as example
from robe_numba.training import TrainingConfig, train, training_vocabulary
from robe_numba.training.model_builder import build_model

SEED = 0


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """Few ids, so that 60,000 rows are enough to learn from."""
    folder = tmp_path_factory.mktemp("log")
    Generator(scale=0.001).write(folder / "clicks.tsv", 60_000)
    ingest(folder / "clicks.tsv", folder / "data", ids="appearance")
    return Dataset(folder / "data")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(**changes):
    widths = {"bottom": example.BOTTOM, "top": example.TOP, "embedding_dim": example.DIM}
    steps = {"batch_size": example.BATCH_SIZE, "lr": example.LR, "embedding_eps": example.EPS}
    return TrainingConfig(**widths, **steps, optimizer="adagrad", seed=SEED, **changes)


def new_model(data, initial, vocabulary):
    """The example's with the initial values of `robe train`: others move the AUC by 0.002."""
    table_rows = [column.rows for column in data.manifest.vocabulary]
    model = example.DLRM(data.schema.num_dense, table_rows)
    tables = torch.from_numpy(initial["embedding.array"]).view(-1, example.DIM)
    with torch.no_grad():
        for name in initial.keys() - {"embedding.array"}:
            part, layer, kind = name.split(".")
            parameter = model.get_parameter(f"{part}.{2 * int(layer)}.{kind}")
            parameter.copy_(torch.from_numpy(initial[name]))
        sizes = [len(ids) + 1 for ids in vocabulary]
        for table, ids, rows in zip(model.tables, vocabulary, tables.split(sizes), strict=True):
            table.weight.copy_(rows[0])  # of ids that do not train
            table.weight[ids] = rows[1:]
    return model


def auc_of_example(model, data):
    example.train(model, data.split("train"), SEED)
    return example.evaluate(model, data.split("test"))


def auc_of_robe_train(data, config, folder):
    return train(data, config, folder).metrics()[-1]["test"]["auc"]


def check_against_robe_train(data, folder, compression, tolerance):
    """Both models reach the AUC of `robe train`; the compressed one with as many elements."""
    full = settings(embedding="full", evaluations=1)
    vocabulary = training_vocabulary(data, full)
    initial = build_model(data, full, vocabulary).parameters()
    reached = auc_of_example(new_model(data, initial, vocabulary), data)
    assert reached == pytest.approx(auc_of_robe_train(data, full, folder / "full"), abs=0.001)

    torch.manual_seed(SEED)  # the array's initial values do not depend on the tests before
    optimizer = rt.FusedAdagrad(example.LR, example.EPS)
    model, report = rt.compress(
        new_model(data, initial, vocabulary), compression, optimizer=optimizer
    )
    replaced = sum(t.bytes_before for t in report.tables if t.bytes_after < t.bytes_before)
    (array,) = report.arrays
    assert array.weight.nbytes == pytest.approx(replaced / compression, abs=4)
    config = settings(embedding="robe", num_parameters=report.bytes_after // 4, evaluations=1)
    reached = auc_of_example(model, data)
    assert reached == pytest.approx(auc_of_robe_train(data, config, folder / "robe"), abs=tolerance)


def test_both_models_are_as_good_as_robe_train(small_data, tmp_path):
    # In so few steps the AUC of compressed tables depends on the keys of the hash.
    check_against_robe_train(small_data, tmp_path, compression=10, tolerance=0.005)


@pytest.mark.slow
def test_both_models_are_as_good_as_robe_train_on_the_log_of_the_example(tmp_path):
    """Other initial values and hashes, as of another seed, move the AUC of `robe` by 0.001."""
    data = example.make_data(tmp_path, 300_000)
    check_against_robe_train(data, tmp_path, compression=100, tolerance=0.002)


def test_it_prints_the_report_and_a_line_for_each_model(tmp_path, monkeypatch, capsys):
    arguments = ["torch_dlrm.py", "--rows", "5000", "--output", str(tmp_path / "new" / "log")]
    monkeypatch.setattr(sys, "argv", arguments)
    example.main()
    first, *report, last = capsys.readouterr().out.splitlines()
    line = r"(.+): (\S+ \wB) of embeddings, test AUC 0\.\d{4}, trained in \d+\.\d s"
    name, before = re.fullmatch(line, first).groups()
    assert name == "uncompressed"
    name, after = re.fullmatch(line, last).groups()
    assert name == "compressed"
    assert report[-1].split() == ["total", *before.split(), *after.split()]
