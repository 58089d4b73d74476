"""Lists of ids in generated logs: what they hold, and what they add to the clicks."""

import hashlib
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

import data_tools
from data_tools.schema import CRITEO, Schema
from data_tools.synthetic.generator import Generator
from robe_numba.metrics import auc

MEANS, SEED, ROWS = (6, 1), 3, 400
CARDINALITY = 128  # of 10,000 at this scale, the least
HEAD, EXPONENT, SHIFT = 0.0105, 1.4261, 122.9
SCHEMA = Schema("label", CRITEO.dense, CRITEO.categorical, ("L1", "L2"))


@pytest.fixture(scope="module")
def generator():
    return Generator(scale=0.001, seed=SEED, multi_hot=MEANS)


@pytest.fixture(scope="module")
def log(generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "log.parquet"
    generator.write(path, ROWS)
    return path


def mix(state):
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def word(key, index):
    return mix((key + 0x9E3779B97F4A7C15 * (index + 1)) % 2**64)


def start_of(purpose):
    digest = hashlib.sha256(f"{purpose} kaggle {SEED}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def rank_of(u):
    """By the inverse of Zipf and Mandelbrot's law."""
    if u < HEAD:
        return 0
    u = (u - HEAD) / (1 - HEAD)
    power = 1 - EXPONENT
    span = (1 + (CARDINALITY - 1) / SHIFT) ** power - 1
    return 1 + min(int(SHIFT * ((1 + u * span) ** (1 / power) - 1)), CARDINALITY - 2)


def id_of(column, rank):
    """MurmurHash3's finaliser."""
    h = (rank + (column + 1) * 0x9E3779B9) % 2**32
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def normal(bits):
    """Half the sum of four uniform numbers of variance 1."""
    parts = [(bits >> shift & 0xFFFF) + 0.5 - 2**15 for shift in (0, 16, 32, 48)]
    return sum(parts) * math.sqrt(12) / 2**16 / 2


def list_of(row, feature):
    """Ids of a row's list, and the effect of each."""
    key = mix((start_of("row") + 0x9E3779B97F4A7C15 * row) % 2**64)
    length = word(key, 200 + feature) * (2 * MEANS[feature] + 1) >> 64
    own = word(key, 300 + feature)
    ranks = [rank_of((word(own, place) >> 11) / 2**53) for place in range(length)]
    effects = word(start_of("id"), 64 + feature)
    return [id_of(64 + feature, r) for r in ranks], [normal(word(effects, r)) for r in ranks]


def test_lists_are_those_of_the_law(log):
    table = pq.read_table(log)
    assert table.schema.names == [*SCHEMA.names]
    for feature, name in enumerate(("L1", "L2")):
        lists = table.column(name).to_pylist()
        assert lists == [list_of(row, feature)[0] for row in range(ROWS)]
        assert {len(each) for each in lists} == set(range(2 * MEANS[feature] + 1))


def test_the_logit_has_the_mean_effect_of_each_list(generator):
    """Every list weighs the same in the clicks of a long log, and an empty one nothing."""
    plain = Generator(scale=0.001, seed=SEED)
    logits = [
        np.log(p / (1 - p)) for p in (g.truth(0, ROWS)[0].astype(float) for g in (generator, plain))
    ]
    effects = [
        [sum(e) / max(len(e), 1) for e in (list_of(row, f)[1] for row in range(ROWS))]
        for f in (0, 1)
    ]
    added = generator.lists.scale @ effects + generator.params.bias - plain.params.bias
    # The probabilities are float32, so the logits have an error of 2**-24 / (1 - p).
    np.testing.assert_allclose(logits[0] - logits[1], added, atol=1e-5)
    assert np.abs(added - added.mean()).max() > 1


def test_lists_have_their_strength_and_leave_the_click_rate():
    generator = Generator(scale=0.001, seed=SEED, multi_hot=(20, 5))
    added = generator.lists.draw(0, 50_000).effects() * generator.lists.scale
    # Both features have half of a variance of 1.
    np.testing.assert_allclose(added.std(0), math.sqrt(0.5), rtol=0.05)
    assert abs(generator.truth(0, 50_000)[1].mean() - 0.2182) < 0.01


def test_the_other_columns_are_those_of_a_log_without_lists(log, tmp_path):
    plain = Generator(scale=0.001, seed=SEED)
    plain.write(tmp_path / "plain.tsv", ROWS)
    plain.write(tmp_path / "plain.parquet", ROWS)
    found = {}
    for source, schema in (
        (log, SCHEMA),
        (tmp_path / "plain.tsv", CRITEO),
        (tmp_path / "plain.parquet", CRITEO),
    ):
        data_tools.ingest(source, tmp_path / "out", schema=schema, overwrite=True)
        (found[source.name],) = data_tools.Dataset(tmp_path / "out").batches(ROWS, threads=0)
    lists, text, table = found.values()
    for batch in (lists, table):
        np.testing.assert_array_equal(batch.dense, text.dense)
        np.testing.assert_array_equal(batch.indices, text.indices)
    np.testing.assert_array_equal(table.labels, text.labels)
    expected = [i for f in (0, 1) for row in range(ROWS) for i in list_of(row, f)[0]]
    assert lists.values.tolist() == expected


def test_rows_do_not_depend_on_how_they_are_cut(generator, log, tmp_path):
    probabilities, labels = generator.truth(0, 20_000)  # of several blocks
    later = generator.truth(9_000, 20_000)
    np.testing.assert_array_equal(later[0], probabilities[9_000:])
    np.testing.assert_array_equal(later[1], labels[9_000:])
    first = generator.first_id_truth(0, 20_000)
    np.testing.assert_array_equal(generator.first_id_truth(9_000, 20_000), first[9_000:])
    generator.write(tmp_path / "part.parquet", 150, start=250)
    whole = pq.read_table(log)
    assert pq.read_table(tmp_path / "part.parquet").equals(whole.slice(250))
    assert whole.column("label").to_pylist() == labels[:ROWS].astype(int).tolist()
    generator.write(tmp_path / "new.parquet", 150, start=250, labelled=False)
    assert pq.read_table(tmp_path / "new.parquet").equals(whole.slice(250).drop(["label"]))


def test_what_first_ids_tell_is_the_mean_of_what_is_true():
    """Rows of about the same prediction must click as often as it says."""
    generator = Generator(scale=0.001, seed=SEED, multi_hot=(8, 3))
    (truth, labels), told = generator.truth(0, 100_000), generator.first_id_truth(0, 100_000)
    for rows in np.array_split(np.argsort(told), 10):
        error = truth[rows].astype(float) - told[rows]
        assert abs(error.mean()) < 5 * error.std() / math.sqrt(len(rows)) + 2e-3
    best, first = auc(labels, truth), auc(labels, told)
    # Four fifths of the variance of the longer list, and more than half of the other's, are unseen.
    assert best - 0.06 < first < best - 0.02
    everything = Generator(scale=0.001, seed=SEED).truth(0, 100_000)[0]
    assert auc(labels, everything) < first - 0.005  # first ids tell something


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ((3, 0), "a mean length of lists is 0; use 1 to 10,000"),
        ((10_001,), "a mean length of lists is 10001; use 1 to 10,000"),
        ((1,) * 65, "there are 65 features of lists; use 64 or fewer"),
    ],
)
def test_wrong_lengths(means, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Generator(scale=0.001, multi_hot=means)


def test_text_cannot_hold_lists(generator, tmp_path):
    with pytest.raises(ValueError, match=r"log.tsv is text, which cannot hold lists; name it"):
        generator.write(tmp_path / "log.tsv", 10)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"write the log to a .parquet file"):
        generator.text(0, 1)
    with pytest.raises(ValueError, match="the log has no lists; give multi_hot"):
        Generator(scale=0.001).first_id_truth(0, 1)


def test_the_command_says_how_far_first_ids_reach(robe, tmp_path):
    log, data = tmp_path / "log.parquet", tmp_path / "data"
    status, text = robe("synth", log, "--rows", 3000, "--scale", 0.001, "--multi-hot", "8,3")
    assert status == 0, text
    generator = Generator(scale=0.001, multi_hot=(8, 3))
    truth, labels = generator.truth(0, 3000)
    assert f"(of the true probabilities) {auc(labels, truth):.4f}" in text
    first = auc(labels, generator.first_id_truth(0, 3000))
    assert f"from only the first id of each list {first:.4f}" in text
    (command,) = re.findall(r"robe (ingest .*--multi-hot L1,L2)", text.replace("\n", " "))
    status, text = robe(*command.replace("-o data", f"-o {data}").split())
    assert status == 0, text
    assert data_tools.Dataset(data).schema == SCHEMA
    assert robe("synth", log, "--multi-hot", "2.5", "--overwrite")[0] == 2
