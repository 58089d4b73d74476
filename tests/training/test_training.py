"""Training runs: reproducible to the byte, scored the same after loading, honest about trouble."""

import os
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools import Dataset
from data_tools.synthetic.generator import Generator
from robe_numba.training import (
    RunFolder,
    TrainingConfig,
    TrainingError,
    TrainingInterrupted,
    Watcher,
    build_model,
    evaluate,
    predict,
    score,
    table_rows,
    train,
    training_vocabulary,
    write_report,
)

FAST = {"optimizer": "adagrad", "lr": 0.02, "batch_size": 256, "evaluations": 2}
KINDS = {"robe": 20, "full": None, "hashed": 20, "qr": 2}


def config(embedding="robe", **changes):
    return TrainingConfig(
        **{"embedding": embedding, "compression": KINDS[embedding], **FAST, **changes}
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    Generator(seed=5, scale=0.001).write(folder / "clicks.tsv", 6000)
    data_tools.ingest(folder / "clicks.tsv", folder / "data")
    return Dataset(folder / "data")


@pytest.mark.parametrize("embedding", KINDS)
def test_one_seed_gives_the_same_bytes_for_any_thread_count(dataset, tmp_path, embedding):
    runs = [
        train(dataset, config(embedding, epochs=2), tmp_path / str(number), threads=threads)
        for number, threads in enumerate((1, 2, 3))
    ]
    weights = {(run.path / "model.safetensors").read_bytes() for run in runs}
    assert len(weights) == 1
    scores = [score(run.load_model(n), dataset.split("test")) for n, run in enumerate(runs, 1)]
    assert len({part.tobytes() for part in scores}) == 1
    other = train(dataset, config(embedding, epochs=2, seed=1), tmp_path / "other")
    assert (other.path / "model.safetensors").read_bytes() not in weights


@pytest.mark.parametrize("embedding", KINDS)
def test_a_run_learns_and_is_scored_the_same_after_loading(dataset, tmp_path, embedding):
    run = train(dataset, config(embedding), tmp_path / "run")
    records = RunFolder(run.path).metrics()
    validations = [record for record in records if "validation" in record]
    assert len(validations) == 2
    assert validations[0]["train_loss"] > validations[1]["train_loss"]
    assert records[-1]["test"]["auc"] > 0.6
    assert evaluate(run.load_model(), dataset.split("test")) == records[-1]["test"]
    best = max(record["validation"]["auc"] for record in validations)
    assert evaluate(run.load_model(), dataset.split("validation"))["auc"] == best


def test_compression_is_counted_from_the_tables_of_the_training_rows(dataset):
    ids = [np.unique(dataset.split("train").unique_ids(c)).size for c in range(26)]
    vocabulary = training_vocabulary(dataset, config())
    assert table_rows(vocabulary) == sum(ids) + 26
    full = build_model(dataset, config("full"), vocabulary).embedding.num_bytes
    assert full == 4 * 16 * (sum(ids) + 26)
    for embedding in ("robe", "hashed", "qr"):
        kept = build_model(dataset, config(embedding), vocabulary).embedding.num_bytes
        ratio = full / kept
        assert KINDS[embedding] * 0.999 < ratio < KINDS[embedding] * 1.02
    exact = config(compression=None, num_parameters=1234)
    assert build_model(dataset, exact, vocabulary).embedding.num_bytes == 4 * 1234


def test_a_size_means_the_same_however_it_is_given(dataset, tmp_path):
    by_ratio = train(dataset, config(), tmp_path / "ratio")
    elements = by_ratio.config["sizes"]["embedding_bytes"] // 4
    by_size = train(dataset, config(compression=None, num_parameters=elements), tmp_path / "size")
    assert (by_ratio.path / "model.safetensors").read_bytes() == (
        by_size.path / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("hash_name", ["paper", "uma"])
def test_other_hash_families_train(dataset, tmp_path, hash_name):
    run = train(dataset, config(hash=hash_name, block_size=8), tmp_path / "run")
    assert run.metrics()[-1]["test"]["auc"] > 0.6


def test_prediction_writes_every_row_labelled_or_not(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run")
    model = run.load_model()
    assert predict(model, dataset, tmp_path / "scores.parquet") == 6000
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["probability", "label"]
    everything = dataset.split("all")
    np.testing.assert_array_equal(table["probability"].to_numpy(), score(model, everything))
    np.testing.assert_array_equal(table["label"].to_numpy(), everything.labels())

    Generator(seed=5, scale=0.001).write(tmp_path / "new.tsv", 6000, labelled=False)
    data_tools.ingest(tmp_path / "new.tsv", tmp_path / "new")
    predict(model, Dataset(tmp_path / "new"), tmp_path / "new.parquet")
    unlabelled = pq.read_table(tmp_path / "new.parquet")
    assert unlabelled.column_names == ["probability"]
    assert unlabelled["probability"].equals(table["probability"])


class Interrupter(Watcher):
    """Presses Ctrl-C at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, loss):
        if step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 15])
def test_an_interrupted_run_can_be_scored(dataset, tmp_path, at):
    with pytest.raises(TrainingInterrupted) as interrupted:
        train(dataset, config(), tmp_path / "run", watcher=Interrupter(at))
    run = interrupted.value.run
    write_report(run)
    assert score(run.load_model(), dataset.split("test")).size == 600


class SignalInterrupter(Watcher):
    """Sends this process a real Ctrl-C at a step."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def step(self, step, loss):
        self.seen = step
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at", [7, 19])  # in the middle, and at the very last step
def test_a_real_ctrl_c_waits_for_the_end_of_the_step(dataset, tmp_path, at):
    watcher = SignalInterrupter(at)
    with pytest.raises(TrainingInterrupted):
        train(dataset, config(), tmp_path / "run", watcher=watcher)
    assert watcher.seen == at
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_divergence_stops_with_the_step_and_a_remedy(dataset, tmp_path):
    wild = config(optimizer="sgd", lr=1e9)
    with pytest.raises(TrainingError, match=r"step \d+ .*lower lr"):
        train(dataset, wild, tmp_path / "run")


def test_diverged_weights_do_not_replace_good_ones(dataset, tmp_path):
    """An evaluation after every step, so that the first bad weights are seen before a bad loss."""
    wild = config(optimizer="sgd", lr=5.0, evaluations=1000, epochs=3)
    with pytest.raises(TrainingError, match="lower lr"):
        train(dataset, wild, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert run.metrics()[-1]["validation"]["auc"] is not None
    assert np.isfinite(score(run.load_model(), dataset.split("test"))).all()


def test_evaluations_beyond_the_steps_are_one_per_step(dataset, tmp_path):
    run = train(dataset, config(evaluations=10**9, batch_size=2000), tmp_path / "run")
    assert [record["step"] for record in run.metrics()[:-1]] == [1, 2, 3]


def test_the_report_is_one_file_with_curves_and_a_table(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run")
    write_report(run)
    text = (run.path / "report.html").read_text()
    assert text.count("<svg") == 1
    assert text.count("<table>") == 3
    assert f"{run.metrics()[-1]['test']['auc']:.5g}" in text
    for loading in ("src=", "<link", "<script", "@import", "url(http"):
        assert loading not in text


def test_a_finished_run_is_not_overwritten_unasked(dataset, tmp_path):
    train(dataset, config(), tmp_path / "run")
    with pytest.raises(FileExistsError, match="--overwrite"):
        train(dataset, config(), tmp_path / "run")
    train(dataset, config(epochs=2), tmp_path / "run", overwrite=True)
    assert len(RunFolder(tmp_path / "run").metrics()) == 5


@pytest.mark.parametrize("name", ["thesis.txt", "config.json", "model.safetensors"])
def test_what_is_not_a_run_is_never_overwritten(dataset, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"architectures": ["another"]}')
    with pytest.raises(FileExistsError, match="is not a run"):
        train(dataset, config(), tmp_path / "mine", overwrite=True)
    assert os.listdir(tmp_path / "mine") == [name]
    assert "another" in (tmp_path / "mine" / name).read_text()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}'])
def test_the_config_of_another_program_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        RunFolder(tmp_path)


def test_weights_are_as_readable_as_other_files(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run")
    modes = {path.stat().st_mode for path in run.path.iterdir()}
    assert len(modes) == 1


def test_damaged_weights_are_refused(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run")
    weights = run.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold the model"):
        run.load_model()
    other = train(dataset, config(compression=40), tmp_path / "other")
    weights.write_bytes((other.path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors does not hold the model"):
        run.load_model()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist, but the run is finished"):
        run.load_model()


def test_data_prepared_otherwise_is_refused(dataset, tmp_path):
    run = train(dataset, config(), tmp_path / "run")
    Generator(seed=5, scale=0.001).write(tmp_path / "raw.tsv", 100)
    data_tools.ingest(tmp_path / "raw.tsv", tmp_path / "raw", dense_transform="none")
    with pytest.raises(ValueError, match="dense_transform = log1p"):
        run.check_dataset(Dataset(tmp_path / "raw"))
    for options in ({"max_ind_range": 10}, {"min_count": 2}, {"ids": "appearance"}):
        ((name, value),) = options.items()
        folder = tmp_path / name
        data_tools.ingest(tmp_path / "raw.tsv", folder, **options)
        with pytest.raises(ValueError, match=rf"{name} = .*, but this dataset has {value}"):
            run.check_dataset(Dataset(folder))
    run.check_dataset(dataset)


def test_training_needs_labels_and_rows(tmp_path):
    Generator(scale=0.001).write(tmp_path / "new.tsv", 100, labelled=False)
    data_tools.ingest(tmp_path / "new.tsv", tmp_path / "new")
    with pytest.raises(ValueError, match="needs a labelled log"):
        train(Dataset(tmp_path / "new"), config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
