"""Files that a command is asked to write."""

from pathlib import Path
from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]


def check_output_file(path: Path, overwrite: bool) -> None:
    """Require that a file may be written to `path`.

    Raises
    ------
    FileExistsError, IsADirectoryError : something stands there that is not to be replaced.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if (path.exists() or path.is_symlink()) and not (overwrite and path.is_file()):
        raise FileExistsError(
            f"{path} is there already; name another file, or pass --overwrite to replace it"
        )
