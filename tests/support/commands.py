"""`robe` in this process, as a person runs it in a shell."""

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch


def run_robe(*arguments, encoding="utf-8"):
    """Exit status, standard output and errors of `robe`, whose streams have an encoding."""
    from robe_numba.cli.app import run

    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with (
        patch.object(sys, "argv", ["robe", *map(str, arguments)]),
        patch.dict(os.environ, COLUMNS="300"),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        try:
            run()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
    texts = []
    for stream in (output, errors):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return status, *texts


def robe(*arguments, code=0, cwd="."):
    """Output and errors of `robe` as one text, after an exit with this code."""
    with chdir(cwd):
        status, output, errors = run_robe(*arguments)
    text = output + errors
    assert status == code, text
    return text.strip()


def assert_refused(result, *words):
    """Status 1 and one sentence with these words."""
    status, text = result
    assert status == 1, text
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert str(word) in line
