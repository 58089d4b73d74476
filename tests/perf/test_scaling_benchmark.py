"""The benchmark of training in several processes runs, and the model reads its results."""

import contextlib
import io
import json
import os
import sys
from itertools import product

import pytest

from perf.scaling import formulas
from tests.perf.scripts import call
from tests.support.needs import MPI, need


@pytest.fixture(scope="module", autouse=True)
def outside_mpi():
    """Hide the variables by which an MPI that is loaded here would be found by mpiexec."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PMI_", "HYDRA_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny run, and what it printed."""
    need(*MPI)
    folder = tmp_path_factory.mktemp("scaling")
    options = ["--shape", "tiny", "--rounds", 1, "--threads", 1]
    files = ["--json", folder / "scaling.json", "--plot", folder / "steps.png"]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        call("bench_scaling", *options, *files)
    return folder, output.getvalue()


def test_settings_are_measured_with_one_and_two_ranks(tiny):
    folder, output = tiny
    result = json.loads((folder / "scaling.json").read_text())
    fields = ("ranks", "batch", "exchange", "overlap")
    steps = {tuple(s[f] for f in fields): s for s in result["steps"] if s["threads"] == 1}
    alone = {(1, batch, "", False) for batch in (4, 32)}
    assert set(steps) == alone | set(
        product((2,), (8, 32, 64), ("gather", "reduce"), (True, False))
    )
    for (ranks, batch, exchange, overlap), step in steps.items():
        assert step["ms"] > 0
        if ranks == 2:
            embedding = formulas.exchange_bytes(formulas.TINY, exchange, batch, 2)
            dense, numbers = formulas.sum_bytes(formulas.TINY.dense_size, 2), 2 * 8
            assert step["bytes"] == embedding + dense + numbers
            assert step["auto"] == (exchange == "gather")  # of fewer bytes, at these batches
            assert step["waited_ms"] > 0
        line = ["tiny", f"{batch:,}", f"{ranks} x 1", exchange + " (auto)" * step["auto"]]
        assert overlap or f"| {' | '.join(line)} | " in output
    assert (folder / "steps.png").stat().st_size > 0


def test_the_model_reads_what_was_measured_and_draws(tiny, tmp_path, capsys):
    folder, _ = tiny
    plot = tmp_path / "scaling.png"
    call("scaling.model", "--json", folder / "scaling.json", "--plot", plot)
    text = capsys.readouterr().out
    assert "| tiny | 64 | 2 x 1 | reduce | yes | " in text
    assert "| mlperf | 65,536 rows in all | sharded | " in text
    assert plot.stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ranks", "1,33"], "they must be in [1, 32]"),
        (["--ranks", "two"], "give numbers"),
        (["--threads", "1000000"], "it must be in [1, "),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("bench_scaling", "--shape", "tiny", *options)
    assert message in capsys.readouterr().err


def test_ranks_that_fail_are_reported():
    with pytest.raises(SystemExit, match="tiny with 2 ranks failed"):
        call("bench_scaling", "--shape", "tiny", "--rounds", 1, "--mpiexec", sys.executable)
