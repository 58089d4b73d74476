"""The generator's rows: stateless, well formed, written whole or not at all."""

import gzip
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from data_tools.synthetic import generator as synth
from data_tools.synthetic import kernels

LINE = re.compile(
    rb"[01](\t(-?[1-9][0-9]*|0)?){13}(\t([0-9a-f]{8})?){26}\n",
)


@pytest.fixture(scope="module")
def generators() -> dict[str, synth.Generator]:
    return {name: synth.Generator(name) for name in synth.PRESETS}


@pytest.fixture(scope="module")
def kaggle(generators: dict[str, synth.Generator]) -> synth.Generator:
    return generators["kaggle"]


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3000), min_size=2, max_size=6),
    offset=st.sampled_from([0, 8191, 10**9, 2**62 - 3000]),
    labelled=st.booleans(),
)
def test_any_chunking_gives_the_same_bytes(
    kaggle: synth.Generator, cuts: list[int], offset: int, labelled: bool
) -> None:
    bounds = [offset + cut for cut in sorted(cuts)]
    pieces = [kaggle.text(a, b, labelled) for a, b in itertools.pairwise(bounds)]
    assert b"".join(pieces) == kaggle.text(bounds[0], bounds[-1], labelled)
    assert b"".join(pieces).count(b"\n") == bounds[-1] - bounds[0]


@pytest.mark.parametrize("preset", sorted(synth.PRESETS))
def test_every_line_has_the_format_of_the_logs(
    generators: dict[str, synth.Generator], preset: str
) -> None:
    for line in generators[preset].text(0, 20_000).splitlines(keepends=True):
        assert LINE.fullmatch(line), line


def test_unlabelled_rows_are_the_labelled_ones_without_the_label(kaggle: synth.Generator) -> None:
    labelled = kaggle.text(500, 1500).splitlines()
    unlabelled = kaggle.text(500, 1500, labelled=False).splitlines()
    assert unlabelled == [line.split(b"\t", 1)[1] for line in labelled]
    assert {line.count(b"\t") for line in unlabelled} == {38}


def test_a_generator_made_again_gives_the_same_rows(kaggle: synth.Generator) -> None:
    assert synth.Generator("kaggle", scale=1.0, seed=0).text(0, 200) == kaggle.text(0, 200)


def test_seed_scale_and_preset_change_the_rows(
    generators: dict[str, synth.Generator],
) -> None:
    others = [synth.Generator("kaggle", seed=1), synth.Generator("kaggle", scale=0.01)]
    texts = {g.text(0, 100) for g in [*generators.values(), *others]}
    assert len(texts) == 4


def test_scale_multiplies_the_cardinalities_and_keeps_small_columns() -> None:
    full = synth.Generator("kaggle").cardinalities
    small = synth.Generator("kaggle", scale=0.001).cardinalities
    assert full[:4] == (1460, 583, 10131227, 2202608)
    assert small[2] == 10131
    assert small[0] == 128
    assert small[8] == full[8] == 3
    assert synth.Generator("kaggle", scale=2.0).cardinalities[2] == 2 * 10131227


def test_a_scaled_log_shows_no_more_ids_than_its_cardinalities() -> None:
    generator = synth.Generator("kaggle", scale=1e-9)
    rows = [line.split(b"\t")[14:] for line in generator.text(0, 20_000).splitlines()]
    for column, cardinality in enumerate(generator.cardinalities):
        ids = {row[column] for row in rows} - {b""}
        assert 2 <= len(ids) <= cardinality


@given(column=st.integers(0, 25), rank=st.integers(0, 2**32 - 1))
def test_ids_are_a_bijection_of_the_ranks(column: int, rank: int) -> None:
    """The id is turned back into its rank, step by step, in Python's integers."""
    mask = 2**32 - 1
    word = int(kernels.id_of(column, rank))
    assert 0 <= word <= mask
    word ^= word >> 16
    word = word * pow(0xC2B2AE35, -1, 2**32) & mask
    word ^= word >> 13 ^ word >> 26
    word = word * pow(0x85EBCA6B, -1, 2**32) & mask
    word ^= word >> 16
    assert (word - (column + 1) * 0x9E3779B9) & mask == rank


def test_hash_words_stay_unsigned() -> None:
    kernels.mix(np.uint64(1))
    assert all(str(s.return_type) == "uint64" for s in kernels.mix.nopython_signatures)
    # First outputs of SplitMix64 from the seed 0, as its authors' C code prints them.
    golden = 0x9E3779B97F4A7C15
    words = [int(kernels.mix(np.uint64(golden * i % 2**64))) for i in (1, 2)]
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("preset", sorted(synth.PRESETS))
def test_labels_follow_the_true_probabilities(
    generators: dict[str, synth.Generator], preset: str
) -> None:
    generator = generators[preset]
    probabilities, labels = generator.truth(0, 200_000)
    assert probabilities.dtype == labels.dtype == np.float32
    assert probabilities.min() > 0
    assert probabilities.max() < 1
    # Overall and in each tenth by probability, the clicks are binomial with these probabilities.
    p, y = probabilities.astype(np.float64), labels.astype(np.float64)
    order = np.argsort(p)
    for part in [order, *np.array_split(order, 10)]:
        z = (y[part] - p[part]).sum() / np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs(z) < 4
    text = generator.text(0, 5000).splitlines()
    assert [line[:1] == b"1" for line in text] == labels[:5000].astype(bool).tolist()


@pytest.mark.parametrize(("preset", "rate"), [("kaggle", 0.2182), ("terabyte", 0.0265)])
@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (7, 0.01)])
def test_click_rate_and_ceiling_hold_for_every_seed_and_scale(
    preset: str, rate: float, seed: int, scale: float
) -> None:
    probabilities, labels = synth.Generator(preset, scale=scale, seed=seed).truth(0, 300_000)
    # The labels' and the pilot's sampling errors; the latter's variance is below rate / 65,536.
    error = np.sqrt(rate * (1 - rate) / 300_000 + rate / 65_536)
    assert abs(labels.mean() - rate) < 4 * error
    assert 0.80 < roc_auc_score(labels, probabilities) < 0.84


def test_truth_of_a_range_is_that_of_its_rows(kaggle: synth.Generator) -> None:
    whole = kaggle.truth(100, 400)
    part = kaggle.truth(200, 300)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[100:200], b)


@pytest.mark.parametrize("labelled", [True, False])
def test_write_streams_what_text_returns(
    kaggle: synth.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    monkeypatch.setattr(synth, "BLOCK_ROWS", 300)
    seen: list[tuple[int, int]] = []
    plain, packed = tmp_path / "rows.tsv", tmp_path / "rows.tsv.gz"
    kaggle.write(plain, 5000, start=70, labelled=labelled, progress=lambda *done: seen.append(done))
    kaggle.write(packed, 5000, start=70, labelled=labelled)
    expected = kaggle.text(70, 5070, labelled)
    assert plain.read_bytes() == expected
    assert gzip.decompress(packed.read_bytes()) == expected
    assert seen == [(min(done, 5000), 5000) for done in range(300, 5300, 300)]
    again = tmp_path / "again.tsv.GZ"
    kaggle.write(again, 5000, start=70, labelled=labelled)
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tsv.gz"])
def test_a_broken_write_leaves_the_old_file_alone(
    kaggle: synth.Generator, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kaggle.write(path, 20_000, progress=fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_no_rows_are_an_empty_file(kaggle: synth.Generator, tmp_path: Path) -> None:
    kaggle.write(tmp_path / "none.tsv", 0)
    assert (tmp_path / "none.tsv").read_bytes() == b""
    assert kaggle.text(5, 5) == b""
    assert [len(values) for values in kaggle.truth(5, 5)] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "avazu"}, "preset is 'avazu'.*'kaggle', 'terabyte'"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"scale": 1000.0}, "32 bits; use a smaller scale"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_bad_generators_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synth.Generator(**arguments)  # type: ignore[arg-type]


def test_bad_rows_are_refused_before_anything_is_written(
    kaggle: synth.Generator, tmp_path: Path
) -> None:
    path = tmp_path / "rows.tsv"
    with pytest.raises(ValueError, match="rows is -1; use rows >= 0"):
        kaggle.write(path, -1)
    with pytest.raises(ValueError, match=r"rows \[-1, 4\)"):
        kaggle.write(path, 5, start=-1)
    with pytest.raises(ValueError, match="stop <= 2"):
        kaggle.write(path, 5, start=2**62)
    with pytest.raises(TypeError):
        kaggle.write(path, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rows \[5, 4\)"):
        kaggle.text(5, 4)
    with pytest.raises(ValueError, match=r"rows \[-3, 4\)"):
        kaggle.truth(-3, 4)
    with pytest.raises(FileNotFoundError):
        kaggle.write(tmp_path / "missing" / "rows.tsv", 5)
    assert list(tmp_path.iterdir()) == []
