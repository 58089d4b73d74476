"""`robe plan`: sizes as people write them, the table, JSON and mistakes."""

import json

import pytest
from typer.testing import CliRunner

import data_tools
from robe_numba.cli import app as cli
from robe_numba.cli.arguments import parse_cardinalities, parse_memory
from robe_numba.planning.plan import plan


def test_sizes_of_the_published_logs():
    assert sum(data_tools.cardinalities("kaggle")) == 33_762_577
    assert sum(data_tools.cardinalities("terabyte")) == 882_774_559
    capped = [min(n, 40_000_000) for n in data_tools.cardinalities("terabyte")]
    assert list(data_tools.cardinalities("mlperf")) == capped
    assert max(capped) == 40_000_000
    with pytest.raises(ValueError, match="kaggle, terabyte, mlperf"):
        data_tools.cardinalities("moon")


def test_cardinalities_by_name_by_number_and_in_files(tmp_path):
    for name in ("kaggle", "terabyte", "mlperf"):
        assert parse_cardinalities(name) == data_tools.cardinalities(name)
    assert parse_cardinalities("1000, 20,30") == (1000, 20, 30)
    assert parse_cardinalities("1_000") == (1000,)
    path = tmp_path / "sizes.txt"
    path.write_text("1000\n20\n\n30\n")
    assert parse_cardinalities(str(path)) == (1000, 20, 30)


@pytest.mark.parametrize(
    ("content", "words"),
    [("10\nten\n", "line 2 is 'ten'"), ("10\n0\n", "line 2 is 0"), ("\n", "has no sizes"),
     (b"\xff\xfe", "is not text")],
)  # fmt: skip
def test_a_bad_file_of_sizes_is_named_with_its_line(tmp_path, content, words):
    path = tmp_path / "sizes.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=words) as raised:
        parse_cardinalities(str(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("moon", "kaggle, terabyte, mlperf"), ("1000,,30", "size 2"), ("1000,-3", "size 2"),
     ("", "not a file"), (".", "not a file")],
)  # fmt: skip
def test_bad_cardinalities_say_what_to_give(text, words):
    with pytest.raises(ValueError, match=words):
        parse_cardinalities(text)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("2MB", 2_000_000), ("1GiB", 2**30), ("512k", 512_000), ("512 KiB", 2**19), ("7", 7),
     ("7B", 7), ("1.5gib", 3 * 2**29), ("0.1GB", 10**8), (" 3 TB ", 3 * 10**12), (".5M", 500_000),
     ("4Mi", 2**22)],
)  # fmt: skip
def test_memory_as_people_write_it(text, num_bytes):
    assert parse_memory(text) == num_bytes


@pytest.mark.parametrize("text", ["", "MB", "2XB", "-2MB", "2 M B", "1e6", "0", "0.2B", "2iB", "٢"])
def test_memory_that_is_none_says_what_to_give(text):
    with pytest.raises(ValueError, match=r"as 2MB, 512k or 1GiB") as raised:
        parse_memory(text)
    assert repr(text) in str(raised.value)


def robe_plan(*arguments):
    """Output of `robe plan`, which must succeed."""
    result = CliRunner().invoke(cli.app, ["plan", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_help_has_examples():
    text = robe_plan("--help")
    assert "Examples" in text
    assert "robe plan --cardinalities kaggle --dim 16 --memory 2MB" in text
    assert "plan" in CliRunner().invoke(cli.app, ["--help"]).output


def test_the_command_shows_a_plan():
    text = robe_plan("--cardinalities", "kaggle", "--dim", 16, "--memory", "2MB")
    assert "33,762,577 rows" in text
    assert "m = 500,000 float32" in text
    # 33,762,577 rows at 500,000 starts leave no row alone.
    assert "All of the rows share all their elements with others" in text
    assert "--dim 16 --num-parameters 500000 --block-size 16 --sign\n" in text
    assert "16 *" in text
    for words in ("lines ", "identical ", "noise ", "2.161 GB", "125 kB"):
        assert words in text


def test_json_holds_the_same():
    arguments = ("--cardinalities", "100000,20000,30", "--dim", 32, "--compression", 100, "--json")
    facts = json.loads(robe_plan(*arguments))
    made = plan((100000, 20000, 30), 32, compression=100)
    assert facts["array_size"] == made.array_size == round(120_030 * 32 / 100)
    assert [c["identical_rows"] for c in facts["choices"]] == [
        choice.identical_rows for choice in made.choices
    ]
    assert facts["choices"][0]["cpu_lines"] == {"average": 32, "most": 32}
    best = facts["recommendation"]
    assert best["train_options"] == (
        f"--dim 32 --num-parameters {made.array_size} --block-size {best['block_size']} --sign"
    )


def test_signs_are_among_the_options_where_they_are_recommended():
    assert "--block-size 2 --sign" in robe_plan(
        "--cardinalities", "1000,20", "--dim", 2, "--memory", 40
    )


def test_a_dataset_is_counted_and_the_options_train_on_it(tmp_path):
    """Distinct ids of the training rows, the first 8 of 10, and one per table for unknown ids."""
    ids = [(x, y) for x, y in zip("1234512389", "7" * 10, strict=True)]
    log = tmp_path / "log.csv"
    lines = [f"{k % 2},{k},{x},{y}" for k, (x, y) in enumerate(ids)]
    log.write_text("\n".join(["label,age,user,item", *lines]) + "\n")
    columns = {"dense": ("age",), "categorical": ("user", "item")}
    data_tools.ingest(log, tmp_path / "data", schema=data_tools.Schema("label", **columns))
    data = str(tmp_path / "data")
    facts = json.loads(robe_plan("--data", data, "--dim", 4, "--compression", 2, "--json"))
    assert facts["num_embeddings"] == [5 + 1, 1 + 1]
    text = robe_plan("--data", data, "--dim", 4, "--compression", 2)
    command = next(line for line in text.splitlines() if line.strip().startswith("robe train"))
    run = str(tmp_path / "run")
    arguments = command.replace("-o RUN", f"-o {run}").split()[1:]
    result = CliRunner().invoke(cli.app, [*arguments, "--batch-size", "4", "--evaluations", "1"])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert json.dumps(config).count(f'"num_parameters": {facts["array_size"]}')


def test_lists_are_counted_by_their_ids(tmp_path):
    """Six rows with 9 ids of films in all, after a column of single ids."""
    log = tmp_path / "log.csv"
    lists = ["3|4", "", "3", "5|5|6", "4|3", "7"]
    lines = [f"{k % 2},{k},{films},{k % 3}" for k, films in enumerate(lists)]
    log.write_text("\n".join(["label,age,films,user", *lines]) + "\n")
    schema = data_tools.Schema("label", ("age",), ("user",), ("films",))
    data_tools.ingest(log, tmp_path / "data", schema=schema, list_separator="|")
    data = ("--data", tmp_path / "data", "--dim", 4, "--compression", 2)
    facts = json.loads(robe_plan(*data, "--json"))
    assert facts["ids_per_row"] == [1, 9 / 6]
    assert facts["tables_sample"]["reads"] == 1 + 9 / 6
    assert facts["tables_sample"]["read_bytes"] == 16 * (1 + 9 / 6)
    assert facts["tables_sample"]["pooled_bytes"] == 16 * 2
    assert "a sample" in robe_plan(*data)


def test_ids_per_row_of_mlperf_and_by_number():
    mlperf = ("--cardinalities", "mlperf", "--dim", 128, "--compression", 1000, "--json")
    facts = json.loads(robe_plan(*mlperf, "--ids-per-row", "mlperf"))
    sample, single = facts["tables_sample"], json.loads(robe_plan(*mlperf))["tables_sample"]
    # 214 ids a row; a row of 128 floats is 512 bytes, 8 lines.
    assert (sample["reads"], sample["read_bytes"], sample["cpu_lines"]) == (214, 109_568, 1712)
    assert (single["reads"], single["read_bytes"], single["cpu_lines"]) == (26, 13_312, 208)
    assert sample["pooled_bytes"] == single["pooled_bytes"] == 26 * 512
    text = robe_plan("--cardinalities", "9,8", "--compression", 2, "--ids-per-row", "1,20.5")
    assert "21.5" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "2MB"), "--cardinalities or --data; neither is given"),
        (("--cardinalities", "9", "--data", "d", "--memory", "2MB"), "both are given"),
        (("--cardinalities", "9"), "--memory or --compression; neither is given"),
        (("--cardinalities", "9", "--memory", "9", "--compression", "9"), "both are given"),
        (("--cardinalities", "9", "--memory", "3"), "memory is 3 bytes"),
        (("--cardinalities", "9", "--memory", "2MB"), "only 144 elements"),
        (("--cardinalities", "moon", "--memory", "2MB"), "moon"),
        (("--cardinalities", "9", "--compression", "nan"), "compression is nan"),
        (("--data", "nowhere", "--compression", "9"), "nowhere"),
        (("--data", "nowhere", "--memory", "much"), "much"),
        (
            ("--cardinalities", "9", "--compression", "2", "--ids-per-row", "few"),
            "'few'; give mlperf",
        ),
        (("--cardinalities", "9", "--compression", "2", "--ids-per-row", "1,2"), "has 2 values"),
        (
            ("--cardinalities", "9", "--compression", "2", "--ids-per-row", "-1"),
            "ids_per_row[0] is",
        ),
        (("--data", "d", "--compression", "2", "--ids-per-row", "1"), "goes with --cardinalities"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr("sys.argv", ["robe", "plan", *arguments])
    with pytest.raises(SystemExit) as raised:
        cli.run()
    assert raised.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert words in text
    assert text.count("\n") == 1
