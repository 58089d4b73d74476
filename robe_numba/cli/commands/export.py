"""`robe export`: a trained model for ONNX Runtime and Triton."""

import os
from pathlib import Path
from typing import Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import Overwrite, check_output_file
from robe_numba.cli.commands.score import RunPath, opened_run
from robe_numba.cli.console import console


def export(
    run: RunPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="ONNX file to write.")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Model repository of Triton to write into."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model in the repository. Default: that of the run's folder."
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="How the embedding is stored: float32, float16, bfloat16, or int8, which has a "
            "scale for each 128 elements."
        ),
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option(
            help="Dataset of the run, if its ids were numbered by --ids appearance or chosen by "
            "--min-count; the model then maps raw ids itself."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model as an ONNX file, from raw features and raw ids to the probability.

    Its inputs are dense, float32 (rows, columns), where NaN is missing, and ids, int64 (rows,
    columns); its output is probability, float32 (rows). The command prints what has to be done to
    features before they are given to the model.

    Examples:

        robe export run -o model.onnx

        robe export run -o model.onnx --dtype int8

        robe export run --triton models --name clicks
    """
    with loading():
        from robe_numba.formatting import format_bytes
        from robe_numba.onnx import export_repository, export_run
        from robe_numba.onnx.export import model_name
        from robe_numba.onnx.model_file import data_path

    if output is None and triton is None:
        raise ValueError("give --output, a file, or --triton, a model repository, or both")
    if triton is None and name is not None:
        raise ValueError("--name is of a model in a repository; give --triton, or leave it out")
    if output is not None:
        for file in (output, data_path(output)):
            check_output_file(file, overwrite)
    if triton is not None:
        name = model_name(run, name)
        _check_place(triton / name, overwrite)
    folder, written = opened_run(run), []
    if output is not None:
        written.append(export_run(folder, output, dtype, data))
    if triton is not None:
        written.append(export_repository(folder, triton, name, dtype, data))
    for model in written:
        console.print(
            f"{model.path}: {format_bytes(model.num_bytes)}, dense float32 (rows, "
            f"{model.num_dense}) and ids int64 (rows, {model.num_tables}) to probability"
        )
    for sentence in written[0].outside:
        console.print(f"before the model: {sentence}")


def _check_place(folder: Path, overwrite: bool) -> None:
    """Require that a model may be written into a folder of a repository."""
    from data_tools.storage.paths import check_room_for_folder

    check_room_for_folder(folder)
    if os.path.lexists(folder) and not overwrite:
        raise FileExistsError(
            f"{folder} already exists; give another --name, or pass --overwrite to replace it"
        )
