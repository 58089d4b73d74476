"""The command line as a person uses it; test_processes.py has what needs a process."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.commands import robe, run_robe
from tests.support.needs import need

COMMANDS = ("demo", "synth", "ingest", "data info", "data verify", "plan", "train", "sweep")
COMMANDS += ("evaluate", "predict")
TRAIN = ("--compression", "20", "--optimizer", "adagrad", "--lr", "0.02", "--batch-size", "256")
TRAIN += ("--bottom", "8", "--top", "8")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a generated log, its dataset and a run."""
    folder = tmp_path_factory.mktemp("work")
    made = robe("synth", folder / "log.tsv", "--rows", 5000, "--scale", 0.001, "--seed", 3)
    assert "best reachable AUC" in made
    assert "5,000 rows" in robe("ingest", folder / "log.tsv", "-o", folder / "data")
    trained = robe("train", folder / "data", "-o", folder / "run", *TRAIN, "--block-size", 8)
    assert "test rows 500, AUC 0." in trained
    return folder


def test_every_command_has_help_with_examples():
    overview = robe("--help")
    for command in COMMANDS:
        assert command.split()[0] in overview
        text = robe(*command.split(), "--help")
        assert "Examples" in text
        assert f"robe {command}" in text
    assert robe("--version").startswith("robe 0.")


def test_what_a_dataset_holds_and_whether_it_is_intact(work, tmp_path):
    text = robe("data", "info", work / "data")
    for words in ("5,000 rows", "13 dense", "26 categorical", "dense transform: log1p", "log.tsv"):
        assert words in text
    assert "as they were written" in robe("data", "verify", work / "data")
    robe("ingest", work / "log.tsv", "-o", tmp_path / "data")
    (shard,) = (tmp_path / "data" / "shards-0").iterdir()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    text = robe("data", "verify", tmp_path / "data", code=1)
    assert f"{shard} was changed" in text
    assert "1 problem;" in text


def test_several_files_are_read_by_a_cluster_and_prepared_as_asked(work, tmp_path):
    need("distributed")
    options = ("--max-ind-range", 1000, "--ids", "appearance", "--min-count", 2, "--threads", 2)
    options += ("--compression", "zstd", "--file-format", "parquet")
    sources = (work / "log.tsv", work / "log.tsv")
    text = robe("ingest", *sources, "-o", tmp_path / "out", *options)
    assert "two passes" in text
    assert "10,000 rows in 2 Parquet files" in text
    assert "known ids in 26 columns" in text
    # The same on threads of one process, and then no model that was trained on other ids.
    robe("ingest", *sources, "-o", tmp_path / "threads", *options, "--scheduler", "threads")
    for path in (tmp_path / "out" / "shards-0").iterdir():
        assert path.read_bytes() == (tmp_path / "threads" / "shards-0" / path.name).read_bytes()
    text = robe("evaluate", work / "run", tmp_path / "out", code=1)
    assert "trained with max_ind_range = None, but this dataset has 1000" in text


def test_a_run_folder_holds_everything(work):
    names = {path.name for path in (work / "run").iterdir()}
    files = {"config.json", "metrics.jsonl", "model.safetensors", "report.html"}
    assert names - {"tensorboard"} == files


def test_evaluate_repeats_the_test_metrics(work):
    again = robe("evaluate", work / "run", work / "data")
    fresh = robe("train", work / "data", "-o", work / "again", *TRAIN, "--block-size", 8)
    assert again.split("AUC")[1].strip() == fresh.split("AUC")[1].strip()
    assert (work / "again" / "model.safetensors").read_bytes() == (
        work / "run" / "model.safetensors"
    ).read_bytes()


def test_predict_scores_unlabelled_rows(work):
    robe("synth", work / "new.tsv", "--rows", 70, "--start", 5000, "--scale", 0.001,
         "--unlabelled")  # fmt: skip
    robe("ingest", work / "new.tsv", "-o", work / "new")
    robe("predict", work / "run", work / "new", "-o", work / "scores.parquet")
    scores = pq.read_table(work / "scores.parquet")
    assert scores.num_rows == 70
    assert "no labels" in robe("evaluate", work / "run", work / "new", code=1)
    assert "--overwrite" in robe("predict", work / "run", work / "new", "-o",
                                 work / "scores.parquet", code=1)  # fmt: skip


def test_embeddings_are_kept_in_memory_as_asked(work, tmp_path):
    whole = robe("evaluate", work / "run", work / "data")
    assert robe("evaluate", work / "run", work / "data", "--storage", "float32") == whole
    for storage in ("float16", "bfloat16", "int8"):
        text = robe("evaluate", work / "run", work / "data", "--storage", storage)
        assert text.startswith("test rows 500, AUC ")
    for storage in ("float32", "int8"):
        robe("predict", work / "run", work / "data", "-o", tmp_path / f"{storage}.parquet",
             "--storage", storage)  # fmt: skip
    exact, close = (
        pq.read_table(tmp_path / f"{storage}.parquet")["probability"].to_numpy()
        for storage in ("float32", "int8")
    )
    assert 0 < np.abs(exact - close).max() < 0.02
    text = robe("evaluate", work / "run", work / "data", "--storage", "int4", code=1)
    assert "storage is 'int4'; choose one of float32, float16, bfloat16, int8" in text


def test_evaluate_knows_the_data_of_the_run(work):
    own = robe("evaluate", work / "run", work / "data")
    assert own.startswith("test rows 500")
    robe("synth", work / "day2.tsv", "--rows", 300, "--start", 5000, "--scale", 0.001, "--seed", 3)
    robe("ingest", work / "day2.tsv", "-o", work / "day2")
    assert robe("evaluate", work / "run", work / "day2").startswith("all rows 300")
    text = robe("evaluate", work / "run", work / "day2", "--part", "test", code=1)
    assert "use --part all" in text


def test_other_logs_are_described_by_their_columns(work):
    lines = ["clicked,age,user,item"]
    lines += [f"{i % 3 == 0:d},{i % 50},u{i % 40},{i % 17}" for i in range(3000)]
    (work / "other.csv").write_text("\n".join(lines) + "\n")
    columns = ("--label", "clicked", "--dense", "age", "--categorical", "user,item")
    robe("ingest", work / "other.csv", "-o", work / "other", *columns)
    robe("train", work / "other", "-o", work / "other-run", *TRAIN[2:], "--compression", 2)
    text = robe("evaluate", work / "other-run", work / "data", code=1)
    assert "trained with dense = ['age']" in text


def test_a_label_alone_keeps_the_other_columns(work, tmp_path):
    rows = (work / "log.tsv").read_text().splitlines()[:50]
    (tmp_path / "log.tsv").write_text("\n".join(rows) + "\n")
    robe("ingest", tmp_path / "log.tsv", "-o", tmp_path / "data", "--label", "clicked")
    text = robe("data", "info", tmp_path / "data")
    assert "13 dense columns (I1, " in text
    assert "26 categorical (C1, " in text


def test_numbered_files_are_read_in_the_order_of_their_numbers(work, tmp_path):
    rows = (work / "log.tsv").read_text().splitlines(keepends=True)
    for day in (1, 2, 10):
        (tmp_path / f"day_{day}").write_text("".join(rows[:day]))
    names = ("day_1", "day_10", "day_2")
    text = robe("ingest", *names, "-o", "out", "--scheduler", "threads", cwd=tmp_path)
    assert "taken in the order of their numbers: day_1, day_2, day_10" in text
    text = robe("data", "info", "out", cwd=tmp_path)
    assert text.index("day_2,") < text.index("day_10,")
    # Any other order was chosen.
    names = ("day_10", "day_1", "day_2")
    text = robe("ingest", *names, "-o", "other", "--scheduler", "threads", cwd=tmp_path)
    assert "order of their numbers" not in text
    text = robe("data", "info", "other", cwd=tmp_path)
    assert text.index("day_10,") < text.index("day_1,") < text.index("day_2,")


def test_columns_of_lists_are_named_and_shown(tmp_path):
    (tmp_path / "films.csv").write_text(
        "user,genres,seen,stars,liked\n1,Drama|War,3|4|5,1|1|2,1\n2,,,,0\n3,Drama,7,0.5,1\n"
    )
    text = robe(
        "ingest", "films.csv", "-o", "data", "--label", "liked", "--categorical", "user,seen",
        "--multi-hot", "genres", "--weights", "seen=stars", "--list-separator", "pipe",
        "--max-length", "2", cwd=tmp_path,
    )  # fmt: skip
    for shown in (text, robe("data", "info", "data", cwd=tmp_path)):
        assert "genres: 1.00 ids per row, at most 2" in shown
        assert "seen: 1.00 ids per row, at most 2" in shown
        assert "seen: lists cut to max length 2: 1" in shown
        assert "genres: lists cut" not in shown
    text = robe("data", "info", "data", cwd=tmp_path)
    assert "1 categorical (user)" in text
    assert "2 multi-hot columns (genres, seen weighted by stars)" in text
    assert "as they were written" in robe("data", "verify", "data", cwd=tmp_path)


def test_lists_made_from_single_ids_are_shown(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,clicked\n1,5,1\n2,6,0\n")
    text = robe(
        "ingest", "log.csv", "-o", "data", "--label", "clicked", "--categorical", "user,item",
        "--ids", "appearance", "--multi-hot-sizes", "1,5", cwd=tmp_path,
    )  # fmt: skip
    assert "lists made from single ids: 6 ids per row in all" in text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("seen", "weights are 'seen'; write them as history=ratings"),
        ("other=stars", "there are weights for 'other', which is not among the columns of lists"),
        ("seen=stars,seen=others", "weights are 'seen=stars,seen=others'; name each column of"),
    ],
)
def test_weights_of_no_column_are_one_sentence(tmp_path, weights, message):
    (tmp_path / "log.csv").write_text("seen,stars,label\n1,1,1\n")
    command = ("ingest", "log.csv", "-o", "data", "--multi-hot", "seen", "--weights", weights)
    text = robe(*command, "--list-separator", "|", cwd=tmp_path, code=1)
    assert text.startswith(f"error: {message}")
    assert "\n" not in text


def test_a_dataset_without_rows_is_told_on_stderr(tmp_path):
    (tmp_path / "log.tsv").write_text("clicked\tage\tuser\n")
    columns = ("--label", "clicked", "--dense", "age", "--categorical", "user")
    command = ("ingest", tmp_path / "log.tsv", "-o", tmp_path / "out", "--separator", "tab")
    status, output, errors = run_robe(*command, *columns)
    assert status == 0
    assert "warning: the sources hold no rows" in errors
    assert "0 rows" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nowhere", "-o", "x", "--compression", "10"), "nowhere"),
        (("train", "{data}", "-o", "x", "--compression", "10", "--epochs", "0"), "epochs is 0"),
        (("train", "{data}", "-o", "x"), "needs its size"),
        (("train", "{data}", "-o", "{run}", "--compression", "10"), "holds a run"),
        (("train", "{data}", "-o", "{data}", "--compression", "10"), "is not a run"),
        (("train", "{data}", "-o", "x", "--num-parameters", "1" + 13 * "0"), "not enough memory"),
        (("synth", "{log}", "--rows", "10"), "--overwrite"),
        (("synth", "."), "is a folder"),
        (("predict", "{run}", "{data}", "-o", "{folder}"), "is a folder"),
        (("train", "{data}", "-o", "x", "--compression", "1e9"), "block_size"),
        (("evaluate", "{data}", "{data}"), "not the folder of a run"),
        (("predict", "{run}", "{data}", "-o", "scores.csv"), "name it .parquet"),
        (("ingest", "nothing.tsv", "-o", "x"), "nothing.tsv"),
        (("synth", "x.tsv", "--preset", "moon"), "moon"),
        (("demo", "-o", "{run}"), "not empty"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(work, tmp_path, arguments, words):
    places = {name: work / name for name in ("data", "run")}
    places |= {"log": work / "log.tsv", "folder": work / "folder.parquet"}
    places["folder"].mkdir(exist_ok=True)
    text = robe(*(a.format(**places) for a in arguments), code=1, cwd=tmp_path)
    assert "error: " in text
    assert words in text
    assert not list(tmp_path.iterdir())


def test_an_unknown_flag_is_refused(work, tmp_path):
    text = robe("train", work / "data", "-o", tmp_path / "x", "--compresion", "10", code=2)
    assert "No such option" in text
    assert not (tmp_path / "x").exists()


def test_a_sweep_compares_what_it_trained(work):
    grid = ("compression=20,50", "batch_size=512", "bottom=8", "top=8", "evaluations=1")
    text = robe("sweep", work / "data", *grid, "-o", work / "sweep", "--best-reachable", 0.8)
    assert "report.html shows the plots" in text
    table = (work / "sweep" / "table.md").read_text()
    assert table.count("| robe |") == 2
    assert robe("sweep", work / "data", "-o", work / "sweep") == text
    for mistake, words in (("colour=red", "no setting 'colour'"), ("lr", "write NAME=VALUE"),
                           ("lr=fast", "lr is 'fast'"), ("top=8x8", "as 512-256-64")):  # fmt: skip
        assert words in robe("sweep", work / "data", mistake, "-o", work / "no", code=1)
    assert not (work / "no").exists()


def test_the_events_of_a_run_are_written_for_mlperf(work):
    robe("train", work / "data", "-o", work / "logged", *TRAIN, "--log", "mlperf")
    text = (work / "logged" / "mlperf.log").read_text()
    assert '"key": "eval_accuracy"' in text
    assert "choose mlperf" in robe("train", work / "data", "-o", work / "no", *TRAIN, "--log",
                                   "csv", code=1)  # fmt: skip


def test_the_demo_compares_kinds_and_draws(tmp_path):
    text = robe("demo", "--rows", 10_000, "-o", tmp_path / "demo")
    for word in ("full", "robe", "hashed", "100x", "1000x", "best reachable"):
        assert word in text
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "demo" / "demo.html").read_text()
    (tmp_path / "demo" / "scores.parquet").write_text("mine")
    assert "scores.parquet" in robe("demo", "-o", tmp_path / "demo", code=1)
    assert (tmp_path / "demo" / "scores.parquet").read_text() == "mine"
