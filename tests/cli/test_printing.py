"""Names are printed as they are, wherever output goes and whatever it can encode."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial

import pytest

from data_tools.storage.atomic import write_text
from robe_numba.cli.console import make_console
from robe_numba.cli.display import Display
from robe_numba.training.reports.html import page
from tests.support.commands import run_robe

ODD = "it's [a] [/b] :smile: run:x: [red]"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SMALL = ("num_parameters=3000", "batch_size=512", "bottom=8", "top=8", "evaluations=1")


def robe(*arguments, code=0, encoding="utf-8"):
    """Standard output and errors of `robe`."""
    status, output, errors = run_robe(*arguments, encoding=encoding)
    assert status == code, output + errors
    return output, errors


def robe_in_c_locale(*arguments, code=0):
    """The same of a process, whose file names are ASCII too."""
    finished = subprocess.run(
        [sys.executable, "-m", "robe_numba", *arguments],
        capture_output=True,
        env={**os.environ, "COLUMNS": "300", **C_LOCALE},
    )
    output, errors = finished.stdout.decode("ascii"), finished.stderr.decode("ascii")
    assert finished.returncode == code, output + errors
    return output, errors


@pytest.fixture(scope="module")
def work(dataset, tmp_path_factory):
    """A folder of an odd name with a log and a dataset."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    folder.mkdir(parents=True)
    shutil.copy(dataset.path.parent / "clicks.tsv", folder)
    shutil.copytree(dataset.path, folder / "data")
    return folder


def test_odd_names_of_folders_are_printed_as_they_are(work):
    data, run, log = (str(work / name) for name in ("data", "run", "clicks.tsv"))
    assert f"{work}/new.tsv: 10 rows" in robe("synth", f"{work}/new.tsv", "--rows", "10")[0]
    assert f"{work}/made: 2,500 rows" in robe("ingest", log, "-o", f"{work}/made")[0]
    assert f"{data}: 2,500 rows" in robe("data", "info", data)[0]
    assert f"{data}: all files are as they" in robe("data", "verify", data)[0]
    small = ("--num-parameters", "3000", "--batch-size", "512")
    assert f"{run}: " in robe("train", data, "-o", run, *small)[0]
    scores = f"{work}/p.parquet"
    assert f"{scores}: 2,500 scores" in robe("predict", run, data, "-o", scores)[0]
    output, _ = robe("sweep", data, "-o", f"{work}/sweep", *SMALL)
    assert f"{work}/sweep/report.html shows the plots" in output
    assert f"error: {work}/none is not a folder" in robe("data", "info", f"{work}/none", code=1)[1]
    assert ODD in robe(ODD, code=2)[1]


def test_problems_and_columns_of_odd_names_are_printed_as_they_are(work, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("label,age,[b]user[/] :smile:\n1,2,x\n0,3,y\n")
    columns = ("--dense", "age", "--categorical", "[b]user[/] :smile:")
    made = str(tmp_path / ODD)
    robe("ingest", str(log), "-o", made, *columns)
    assert "1 categorical ([b]user[/] :smile:)" in robe("data", "info", made)[0]
    (shard,) = (tmp_path / ODD / "shards-0").iterdir()
    shard.unlink()
    assert f"{shard} is missing\n" in robe("data", "verify", made, code=1)[0]


def test_progress_shows_odd_names_as_they_are(capsys):
    console = make_console(width=200)
    shown = Display(console)
    shown.update(shown.add(ODD, "rows", 10), note=ODD)
    console.print(shown.get_renderable())
    assert capsys.readouterr().out.count(ODD) == 2


def test_a_suggested_command_can_be_pasted(work, tmp_path):
    output, _ = robe("plan", "--data", str(work / "data"), "--compression", "10")
    command = next(line for line in output.splitlines() if line.startswith("  robe train"))
    assert shlex.split(command)[:3] == ["robe", "train", str(work / "data")]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
def test_a_suggested_command_names_a_folder_that_is_no_text(dataset, tmp_path):
    data = os.fsdecode(os.fsencode(tmp_path) + b"/it's \xff\n\x1b[31m")
    shutil.copytree(dataset.path, data)
    output, _ = robe("plan", "--data", data, "--compression", "10")
    command = next(line for line in output.splitlines() if line.startswith("  robe train"))
    echo = f'robe() {{ printf %s "$2"; }}; {command}'
    named = subprocess.run(["bash", "-c", echo], capture_output=True, check=True).stdout
    assert named == os.fsencode(data)


def test_what_a_terminal_would_obey_is_escaped(dataset, tmp_path):
    obeyed = "\x1b]0;title\x07\x1b[2J\r\x9b1m"
    shown = r"\x1b]0;title\x07\x1b[2J\x0d\x9b1m"
    data = str(tmp_path / f"data{obeyed}")
    shutil.copytree(dataset.path, data)
    for command in (("info",), ("verify",)):
        output, _ = robe("data", *command, data)
        assert f"data{shown}" in output
        assert obeyed[0] not in output
    _, errors = robe("data", "info", f"{data}x", code=1)
    assert f"data{shown}x is not a folder" in errors
    swept, _ = robe("sweep", str(dataset.path), "-o", f"{tmp_path}/{obeyed}", *SMALL)
    assert f"{tmp_path}/{shown}/report.html" in swept


def test_what_cannot_be_encoded_is_escaped(dataset, tmp_path):
    data, swept = str(dataset.path), tmp_path / "swept"
    output, _ = robe("sweep", data, "-o", str(swept), "seed=0,1", *SMALL, encoding="ascii")
    assert r" \xb1 0." in output
    assert "report.html shows the plots" in output
    assert "±" in (swept / "table.md").read_text(encoding="utf-8")
    for command in (("sweep", "--help"), ("plan", "--data", data, "--compression", "9")):
        robe(*command, encoding="ascii")
    assert "is not a folder" in robe_in_c_locale("data", "info", "±", code=1)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
@pytest.mark.parametrize(
    "run",
    [robe, partial(robe, encoding="ascii"), robe_in_c_locale],
    ids=["utf-8", "ascii", "C"],
)
def test_names_that_are_no_text_are_escaped(tmp_path, run):
    log = os.fsdecode(os.fsencode(tmp_path) + b"/l\xff[b].tsv")
    assert r"l\udcff[b].tsv: 10 rows" in run("synth", log, "--rows", "10")[0]
    assert r"l\udcff[b].tsv is not a folder" in run("data", "info", log, code=1)[1]


def test_reports_escape_names_that_are_no_text(tmp_path):
    write_text(tmp_path / "report.html", page("robe on \udcff ±.tsv", ""))
    assert "robe on \\udcff ±.tsv" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_cannot_speak_to_the_terminal(work, tmp_path):
    """As a dataset of somebody else's may try."""
    data = tmp_path / "data"
    shutil.copytree(work / "data", data)
    record = json.loads((data / "manifest.json").read_text())
    record["created_by"] = "\x1b]52;c;bXluZQ==\x07 me"
    record["sources"][0]["name"] = "log\x1b[31m\r\x9b2J.tsv"
    (data / "manifest.json").write_text(json.dumps(record))
    output, _ = robe("data", "info", str(data))
    assert r"by \x1b]52;c;bXluZQ==\x07 me" in output
    assert r"from log\x1b[31m\x0d\x9b2J.tsv, " in output
    _, errors = robe("data", "info", "\x1b[2J", code=1)
    assert errors.startswith(r"error: \x1b[2J is not a folder")
