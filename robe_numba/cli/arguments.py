"""Arguments that commands share: the settings of a run, sizes as people write them, and outputs."""

import inspect
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from data_tools.storage.paths import check_folder, check_writable
from robe_numba.cli import loading
from robe_numba.training.settings import SETTINGS

DataPath = Annotated[str, typer.Argument(help="Dataset made by robe ingest.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Storage = Annotated[
    str,
    typer.Option(
        help="How embeddings are kept in memory: float32, float16, bfloat16 or int8. A GPU takes "
        "float32 and float16."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads per process. Default: all cores, shared equally."),
]

# Settings that a person gives; the launcher decides the others.
GIVEN = {name: setting for name, setting in SETTINGS.items() if setting.option is not None}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `settings` of a command by an option for each setting.

    Parameters
    ----------
    command : callable
        Gets their values in `settings`, a dict by name.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += _options() if parameter.name == "settings" else [parameter]

    @wraps(command)
    def with_options(**values: Any) -> None:
        settings = {name: values.pop(name) for name in GIVEN}
        for name, parse in PARSERS.items():
            settings[name] = None if settings[name] is None else parse(settings[name])
        command(**values, settings=settings)

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _options() -> Iterator[inspect.Parameter]:
    for name, setting in GIVEN.items():
        kind = str if name in PARSERS else setting.kind
        spelling = [setting.option] if setting.option else []
        option = typer.Option(*spelling, help=setting.help)
        yield inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=setting.default,
            annotation=Annotated[kind | None if setting.optional else kind, option],
        )


def parse_setting(name: str, text: str) -> Any:
    """The value of a setting of `TrainingConfig` from its text; "none" is None.

    Widths are written as 512-256-64, fractions as 0.8-0.1-0.1, cardinalities as `robe plan` takes
    them.

    Raises
    ------
    ValueError
        There is no such setting, or the text is not a value of its type.
    """
    if name not in GIVEN:
        raise ValueError(f"there is no setting {name!r}; choose from {', '.join(GIVEN)}")
    if text.lower() == "none":
        return None
    setting = GIVEN[name]
    parse = PARSERS.get(name) or KINDS.get(setting.kind, setting.kind)
    try:
        return parse(text)
    except (KeyError, ValueError) as error:
        reason = str(error) if name in PARSERS else f"write it as {EXAMPLES[setting.kind]}"
        raise ValueError(f"{name} is {text!r}: {reason}") from None


def parse_widths(text: str) -> tuple[int, ...]:
    """Hidden widths of an MLP, written as 512-256-64; empty for none.

    Raises
    ------
    ValueError
        The text is not of this form.
    """
    try:
        return tuple(int(width) for width in text.split("-")) if text else ()
    except ValueError:
        raise ValueError(f"widths are {text!r}; write them as 512-256-64") from None


def parse_cardinalities(text: str) -> tuple[int, ...]:
    """The number of rows of each table.

    Parameters
    ----------
    text : str
        The name of a published log ("kaggle", "terabyte" or "mlperf"), sizes such as
        "1000,200,30", or the path of a text file with one size per line. Names take precedence: a
        file called kaggle is ./kaggle.

    Raises
    ------
    ValueError
        The text is none of these, or a size is not an integer from 1 to 2**62.
    OSError
        The file cannot be read.
    """
    with loading():
        from data_tools.synthetic.presets import LOGS, cardinalities

    if text in LOGS:
        return cardinalities(text)
    if re.fullmatch(r"[-+\d_,\s]+", text):
        return tuple(
            _size(f"size {k} of {text!r}", word) for k, word in enumerate(text.split(","), 1)
        )
    path = Path(text)
    if not path.is_file():
        raise ValueError(
            f"cardinalities are {text!r}, which is not a file; give {', '.join(LOGS)}, sizes such "
            f"as 1000,200,30, or a text file with one size per line"
        )
    return _sizes_in(path)


def parse_ids_per_row(text: str) -> tuple[float, ...]:
    """The mean number of ids of each table in a row of a log.

    Parameters
    ----------
    text : str
        "mlperf", for the lists that MLPerf's DLRM-DCNv2 makes of Terabyte; or one number per table,
        such as "1,1,20.5".

    Raises
    ------
    ValueError
        The text is neither.
    """
    with loading():
        from data_tools.options import MLPERF_SIZES

    if text == "mlperf":
        return MLPERF_SIZES
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"ids per row are {text!r}; give mlperf, or one number per table, such as 1,1,20.5"
        ) from None


def _sizes_in(path: Path) -> tuple[int, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text; give a file with one size per line") from None
    sizes = tuple(
        _size(f"{path}, line {number}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not sizes:
        raise ValueError(f"{path} has no sizes; give the rows of one table per line")
    return sizes


def _size(where: str, word: str) -> int:
    with loading():
        from robe_numba.spec import MAX_SIZE, check_int

    try:
        number = int(word)
    except ValueError:
        raise ValueError(
            f"{where} is {word.strip()[:40]!r}; give the rows of a table, an integer such as 1000"
        ) from None
    return check_int(where, number, 1, MAX_SIZE)


# Settings that are one word on a command line, and how it is read.
PARSERS: dict[str, Callable[[str], tuple[int, ...]]] = {
    "cardinalities": parse_cardinalities,
    "bottom": parse_widths,
    "top": parse_widths,
}
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
FRACTIONS = tuple[float, float, float]
# How a grid has values of other types, and what they look like.
KINDS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: WORDS[text.lower()],
    FRACTIONS: lambda text: tuple(float(share) for share in text.split("-")),
}
EXAMPLES = {bool: "yes or no", int: "16", float: "0.01", FRACTIONS: "0.8-0.1-0.1"}
UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}{b}": 1000**k for k, prefix in enumerate("KMGT", 1) for b in ("", "B")}
UNITS |= {f"{prefix}I{b}": 1024**k for k, prefix in enumerate("KMGT", 1) for b in ("", "B")}


def parse_memory(text: str) -> int:
    """A size in bytes, rounded down.

    Parameters
    ----------
    text : str
        A number and its unit, in any case: k, M, G and T are powers of 1000, Ki, Mi, Gi and Ti of
        1024, with or without a B; without a unit it is bytes. "2MB" is 2,000,000, "1.5GiB" is
        1,610,612,736.

    Raises
    ------
    ValueError
        The text is not of this form, or less than a byte.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip(), re.ASCII | re.IGNORECASE)
    factor = UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"memory is {text!r}; give a number and its unit, as 2MB, 512k or 1GiB")
    number = int(Fraction(match[1]) * factor)
    if number < 1:
        raise ValueError(f"memory is {text!r}; it must be at least 1 byte, as 2MB, 512k or 1GiB")
    return number


def check_output_file(path: Path, overwrite: bool) -> None:
    """Require that a file may be written to `path`.

    Raises
    ------
    FileExistsError, IsADirectoryError
        Something is there that must not be replaced.
    FileNotFoundError, NotADirectoryError, PermissionError
        Its folder does not exist, is not a folder, or may not be written to.
    """
    check_folder(path.parent, f"make it first, or write {path.name} to another folder")
    check_writable(path.parent)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if (path.exists() or path.is_symlink()) and not (overwrite and path.is_file()):
        raise FileExistsError(
            f"{path} already exists; name another file, or pass --overwrite to replace it"
        )
