"""Plans: figures against enumeration, exact arithmetic and the package's own reads."""

import json
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import data_tools
from robe_numba import RobeSpec, block_starts, lookup, lookup_backward
from robe_numba.cli import app as cli
from robe_numba.cli.arguments import parse_cardinalities, parse_memory
from robe_numba.planning.costs import expected_identical_rows, lines_touched, row_noise
from robe_numba.planning.plan import IDENTICAL_SHARE, plan

# Cache lines


@pytest.mark.parametrize(
    ("block_size", "cpu", "gpu"),
    [
        (1, (128, 128), (128, 128)),
        (8, (23, 32), (19.5, 32)),
        (32, (11.75, 12), (7.875, 8)),  # published rounded, as 7.9
        (128, (8.9375, 9), (4.96875, 5)),  # published rounded, as 8.94 and 4.97
    ],
)
def test_published_lines_per_row_of_128(block_size, cpu, gpu):
    for (average, most), line in ((cpu, 64), (gpu, 128)):
        lines = lines_touched(128, block_size, 1, line)
        assert (lines.average, lines.most) == (average, most)
    table = plan([1000], 128, compression=10)
    assert table.tables_cpu_lines.average == table.tables_cpu_lines.most == 8
    assert table.tables_gpu_lines.average == table.tables_gpu_lines.most == 4


def enumerated_lines(dim, block_size, alignment, line):
    """Average and most lines per row, by going through the starts of a period and every float."""
    period = math.lcm(alignment, line)
    average, most = Fraction(0), 0
    for first in range(0, dim, block_size):
        length = min(block_size, dim - first)
        touched = [
            len({(start + j) // line for j in range(length)})
            for start in range(0, period, alignment)
        ]
        average += Fraction(sum(touched), len(touched))
        most += max(touched)
    return average, most


@given(data=st.data(), dim=st.integers(1, 80), line_bytes=st.sampled_from([64, 128]))
@settings(max_examples=60, deadline=None)
def test_lines_are_those_of_all_offsets(data, dim, line_bytes):
    block_size = data.draw(st.integers(1, dim + 8))
    alignment = data.draw(st.integers(1, min(block_size, dim)))
    average, most = enumerated_lines(dim, block_size, alignment, line_bytes // 4)
    lines = lines_touched(dim, block_size, alignment, line_bytes)
    assert lines.most == most
    assert lines.average == pytest.approx(float(average), rel=1e-14)


@pytest.mark.parametrize(("block_size", "alignment"), [(1, 1), (6, 1), (8, 8), (20, 1), (16, 4)])
def test_lines_are_those_of_real_reads(block_size, alignment):
    """The average over many rows of a circular array, whose blocks also wrap."""
    dim, num_rows, line = 20, 20_000, 16
    spec = RobeSpec(640, block_size, dim, 1, alignment=alignment)
    starts = block_starts(np.arange(num_rows).reshape(-1, 1), spec)[:, 0]
    touched = np.zeros(num_rows)
    for k in range(spec.num_blocks):
        reach = np.arange(min(block_size, dim - k * block_size))
        lines = (starts[:, k, None] + reach) % spec.array_size // line
        touched += 1 + (np.diff(lines, axis=1) != 0).sum(axis=1)
    expected = lines_touched(dim, block_size, alignment, 64)
    assert touched.max() <= expected.most
    # Five standard errors, and nothing where every row touches as many.
    error = 5 * touched.std() / math.sqrt(num_rows) + 1e-9
    assert abs(touched.mean() - expected.average) < error


# Identical rows


@pytest.mark.parametrize(("num_rows", "n", "blocks"), [(1, 3, 1), (4, 3, 1), (4, 2, 2), (6, 1, 3)])
def test_identical_rows_are_those_of_all_placements(num_rows, n, blocks):
    """Every way in which the rows can be placed, each as likely as the others."""
    rows = list(product(range(n), repeat=blocks))
    placements = list(product(rows, repeat=num_rows))
    twins = sum(sum(p.count(row) > 1 for row in p) for p in placements)
    expected = Fraction(twins, len(placements))
    assert expected_identical_rows(num_rows, n, blocks) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("num_rows", "n", "blocks"),
    [(882_774_559, 112_995_144, 1), (882_774_559, 112_995_144, 2), (33_762_577, 67_525, 2),
     (33_762_577, 500_000, 4), (10**6, 10**7, 1), (2, 10**9, 30)],
)  # fmt: skip
def test_identical_rows_lose_no_digits(num_rows, n, blocks):
    with localcontext() as context:
        context.prec = 400
        others = (1 - Decimal(n) ** -blocks) ** (num_rows - 1)
        expected = float(num_rows * (1 - others))
    assert expected > 0
    assert expected_identical_rows(num_rows, n, blocks) == pytest.approx(expected, rel=1e-12)


def test_identical_rows_are_those_of_the_hash():
    """Rows with a twin among 2 tables of 10 rows, over many seeds."""
    num_rows, draws = 20, 1500
    indices = np.repeat(np.arange(num_rows // 2)[:, None], 2, axis=1)
    twins = np.empty(draws)
    for seed in range(draws):
        spec = RobeSpec(40, 3, 6, 2, seed=seed)
        starts = block_starts(indices, spec).reshape(num_rows, -1)
        _, counts = np.unique(starts, axis=0, return_counts=True)
        twins[seed] = counts[counts > 1].sum()
    expected = expected_identical_rows(num_rows, 40, 2)
    assert abs(twins.mean() - expected) < 5 * twins.std() / math.sqrt(draws)


# Noise


def read_back_error(spec, rows_per_table, generator):
    """Mean over all rows of |read - stored|^2, for random rows of length 1."""
    shape = (rows_per_table, spec.num_tables, spec.embedding_dim)
    rows = generator.standard_normal(shape)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    indices = np.repeat(np.arange(rows_per_table)[:, None], spec.num_tables, axis=1)
    array = lookup_backward(rows, indices, spec)
    return ((lookup(array, indices, spec) - rows) ** 2).sum(axis=-1).mean()


@pytest.mark.parametrize(
    ("dim", "block_size", "alignment", "rows_per_table", "sign"),
    [
        (6, 1, 1, 4, True),
        (6, 2, 2, 4, True),
        (6, 4, 1, 4, True),
        (6, 4, 4, 4, False),  # a last block that is shorter
        (10, 4, 2, 2, True),
        (7, 6, 4, 2, True),  # neither divides the other
        (6, 6, 1, 4, False),
        (12, 3, 1, 1, True),
    ],
)
def test_noise_is_what_reading_back_shows(dim, block_size, alignment, rows_per_table, sign):
    draws, m = 800, 24
    generator = np.random.default_rng(7)
    errors = np.empty(draws)
    for seed in range(draws):
        spec = RobeSpec(m, block_size, dim, 2, seed=seed, sign=sign, alignment=alignment)
        errors[seed] = read_back_error(spec, rows_per_table, generator)
    expected = row_noise(2 * rows_per_table, dim, m, block_size, alignment) ** 2
    assert abs(errors.mean() - expected) < 5 * errors.std() / math.sqrt(draws)


def test_own_noise_is_that_of_a_row_alone():
    """For one given row, with signs; none where the row is one block."""
    dim, m, draws = 12, 24, 800
    row = np.random.default_rng(1).standard_normal((1, 1, dim))
    row /= np.linalg.norm(row)
    index = np.zeros((1, 1), dtype=np.int64)
    for block_size in (1, 4, 12):
        products = np.empty(draws)  # of the row read back with itself: as signed estimates
        errors = np.empty(draws)
        for seed in range(draws):
            spec = RobeSpec(m, block_size, dim, 1, seed=seed, sign=True)
            back = lookup(lookup_backward(row, index, spec), index, spec)
            products[seed] = (back * row).sum()
            errors[seed] = ((back - row) ** 2).sum()
        assert abs(products.mean() - 1) < 5 * products.std() / math.sqrt(draws) + 1e-12
        blocks = (row.reshape(-1, block_size) ** 2).sum(axis=1)
        # Of this row: each element meets those of the other blocks, sum over i of |others|^2 / m.
        given = sum(block_size * (1 - own) for own in blocks) / m
        assert abs(errors.mean() - given) < 5 * errors.std() / math.sqrt(draws) + 1e-12
        assert row_noise(1, dim, m, block_size) ** 2 == pytest.approx(given)  # whatever the row


def test_noise_falls_as_blocks_grow_to_about_the_root_of_the_compression():
    made = plan([300, 20], 32, compression=10)
    noise = [choice.noise for choice in made.choices if choice.alignment == 1]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] > noise[-1] > 0.99 * math.sqrt(10)
    own = [choice.own_noise for choice in made.choices if choice.alignment == 1]
    assert own == sorted(own, reverse=True)
    assert own[-1] == 0


# Plans


def test_a_plan_compares_every_block_size():
    made = plan(np.array([1000, 24]), 24, array_size=2001)
    pairs = [(choice.block_size, choice.alignment) for choice in made.choices]
    assert pairs == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 16),
                     (24, 1)]  # fmt: skip
    assert made.compression == 1024 * 24 / 2001
    assert made.tables.weights == made.tables.adagrad_state == 4 * 1024 * 24
    assert made.tables.adagrad_block_state == 4 * 1024 * 24 / 16  # a sum for 16 elements
    for choice in made.choices:
        spec = RobeSpec(2001, choice.block_size, 24, 2, alignment=choice.alignment)
        assert choice.num_blocks == spec.num_blocks
        assert choice.num_starts == len(range(0, 2001, choice.alignment))
        assert choice.memory.weights == spec.num_bytes
        assert choice.memory.sgd_state == 0
        assert choice.memory.adagrad_block_state == 4 * math.ceil(2001 / min(choice.block_size, 16))
        assert choice.identical_share == choice.identical_rows / 1024
    assert plan([10, 10], 1, array_size=1).choices[0].identical_rows == 20
    assert [c.block_size for c in plan([10, 10], 64, array_size=40).choices][-1] == 32


def test_the_recommendation_is_a_row_per_hash_with_signs_where_rows_meet():
    cases = (((10**6, 30), 32, 100), ((500,), 16, 2), ((9,) * 3, 8, 1), ((200,), 8, 8))
    for sizes, dim, compression in cases:
        advice = plan(sizes, dim, compression=compression).recommendation
        assert (advice.choice.block_size, advice.choice.alignment) == (dim, 1)
        assert advice.sign == (advice.choice.identical_share > IDENTICAL_SHARE)
        assert ("signs" in advice.reason) == advice.sign


def test_rows_that_stay_apart_need_no_signs():
    assert not plan([2], 5000, compression=1).recommendation.sign


def test_an_array_shorter_than_a_row_has_blocks_that_fit():
    assert plan([1000, 20], 16, array_size=10).recommendation.choice.block_size == 8


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([10], 4), {}, "neither is given"),
        (([10], 4), {"array_size": 4, "compression": 2}, "both are given"),
        (([10], 4), {"compression": 0.5}, "compression is 0.5"),
        (([10], 4), {"compression": 1000}, "use at most 40"),
        (([10], 4), {"array_size": 41}, "only 40 elements"),
        (([10], 4), {"array_size": 0}, "array_size is 0"),
        (([10], 0), {"array_size": 4}, "embedding_dim is 0"),
        (([10, 0], 4), {"array_size": 4}, r"num_embeddings\[1\] is 0"),
        (([], 4), {"array_size": 4}, "num_embeddings is empty"),
    ],
)
def test_mistakes_of_a_plan_name_the_value(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        plan(*arguments, **options)


# The command line


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
