"""model.safetensors of a run, and its digest in config.json, which match at any moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.storage.atomic import replacing_own
from data_tools.storage.checksums import digest_of
from data_tools.storage.own_files import readable
from data_tools.storage.paths import what_is_at
from robe_numba.training.run.config_file import REMEDY, DamagedRunError, read_config, write_config


@contextmanager
def replacing_model(path: Path, config_path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Replace model.safetensors by the file that the block writes to the path it gets.

    config.json has the digests of both files while one replaces the other.

    Parameters
    ----------
    path, config_path : Path
        Of model.safetensors and config.json.
    config : dict
        Content of config.json; the digest of the new model becomes its last.
    """
    known = config["digests"]
    with replacing_own(path) as temporary:
        yield temporary
        digest = digest_of(temporary)
        known["models"] = [*known["models"], digest]
        write_config(config_path, config)
    known["models"] = [digest]
    write_config(config_path, config)


def check_model(path: Path, config_path: Path) -> None:
    """Require that a model has a digest of config.json.

    Raises
    ------
    DamagedRunError
        Its digest differs.
    FileNotFoundError
        It is not a file any more.
    OSError
        It cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{what_is_at(path)}, but the run is finished and had a model there; {REMEDY}"
        )
    with readable(path):
        digest = digest_of(path)
    # Read after the model, which a process that trains may just have replaced.
    if digest not in read_config(config_path)["digests"]["models"]:
        raise DamagedRunError(
            f"{path} does not hold the model of {config_path.name}: its digest differs, so it is "
            f"damaged, truncated or of another run; {REMEDY}"
        )


def digest_of_model(path: Path, config: dict[str, Any]) -> str:
    """The digest of a model that was checked.

    config.json has none in earlier versions, and two if a process was killed while one model
    replaced the other; then it is computed.
    """
    known = config["digests"]["models"] if "digests" in config else []
    return str(known[0]) if len(known) == 1 else digest_of(path)
