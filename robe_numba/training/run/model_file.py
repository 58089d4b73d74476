"""model.safetensors of a run, whose digest config.json has at any moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.storage.atomic import replacing_own
from data_tools.storage.checksums import digest_of
from data_tools.storage.own_files import readable
from data_tools.storage.paths import what_stands_at
from robe_numba.training.run.config_file import REMEDY, DamagedRunError, read_config, write_config


@contextmanager
def replacing_model(path: Path, config_path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """As `replacing_own`; config.json has the digests of both files before one replaces the other.

    Parameters
    ----------
    config : of config.json; its last digest of a model is the new one.
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
    """Require the file that config.json has a digest of.

    Raises
    ------
    DamagedRunError : it is another.
    FileNotFoundError : it is no file any more.
    OSError : it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{what_stands_at(path)}, but the run is finished and had a model there; {REMEDY}"
        )
    with readable(path):
        digest = digest_of(path)
    # Read only now: the process that trains may just have replaced the file.
    if digest not in read_config(config_path)["digests"]["models"]:
        raise DamagedRunError(
            f"{path} does not hold the model of {config_path.name}: its digest is another, so it "
            f"is damaged, cut off or of another run; {REMEDY}"
        )
