"""Files that a command is asked to write."""

from pathlib import Path
from typing import Annotated

import typer

from data_tools.storage.paths import check_folder, check_writable

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]


def check_output_file(path: Path, overwrite: bool) -> None:
    """Require that a file may be written to `path`.

    Raises
    ------
    FileExistsError, IsADirectoryError : something stands there that is not to be replaced.
    FileNotFoundError, NotADirectoryError, PermissionError : its folder is none, or not ours to
        write to.
    """
    check_folder(path.parent, f"make it first, or write {path.name} to another folder")
    check_writable(path.parent)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if (path.exists() or path.is_symlink()) and not (overwrite and path.is_file()):
        raise FileExistsError(
            f"{path} is there already; name another file, or pass --overwrite to replace it"
        )
