"""config.json of a run: settings, shape of the model, dataset, and digests.

The digests make sure that a model is scored as it was trained: one is of config.json itself, the
others are of the files that model.safetensors may be. While it is replaced these are two, the old
one and the new one, so that a process that is killed between them leaves a run that is known.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta

from data_tools import Dataset
from data_tools.storage.atomic import write_text
from data_tools.storage.checksums import digest
from data_tools.storage.json_files import convert, parse
from data_tools.storage.own_files import read_bytes
from robe_numba.dlrm import DLRM, DLRMConfig
from robe_numba.dlrm.embeddings.kinds import specs_from
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.dataset_facts import dataset_facts
from robe_numba.training.run.weights import PREFIX
from robe_numba.training.settings import KINDS, SETTINGS, Settings

CONFIG = "config.json"
FORMAT = "robe run 2"
WITHOUT_DIGESTS = "robe run 1"  # of earlier versions
REMEDY = "restore it from a copy, or train again (with --overwrite, or to another output)"


class DamagedRunError(ValueError):
    """A file of a run is damaged; the message says which, and what can be done."""


class NotARunError(ValueError):
    """A config.json is another program's."""


# Types of the settings, and few of their rules: others may be newer than the run and must not
# keep it from being read.
_TYPES = get_type_hints(Settings) | {
    "embedding": Literal[KINDS],
    "split_by": Literal[SETTINGS["split_by"].choices],
    "seed": Annotated[int, Meta(ge=0)],
}
_Settings = make_dataclass(
    "_Settings", [(name, _TYPES[name], setting.default) for name, setting in SETTINGS.items()]
)


@dataclass(frozen=True)
class _Embedding:
    """As `Embedding.describe` gives it."""

    kind: str
    specs: dict[str, dict[str, Any]]
    optimizer: str
    eps: float
    state_block: int = 1

    def __post_init__(self) -> None:
        specs_from(self.kind, self.specs)


_Size = Annotated[int, Meta(ge=0, lt=2**62)]


@dataclass(frozen=True)
class _Sizes:
    embedding_bytes: _Size
    vocabulary_bytes: _Size
    dense_bytes: _Size


@dataclass(frozen=True)
class _Dataset:
    """As `dataset_facts` gives it; earlier versions noted less."""

    dense: list[str]
    categorical: list[str]
    dense_transform: str
    index_dtype: str
    rows: int
    sources: list[str]
    max_ind_range: int | None = None
    ids: str | None = None
    min_count: int | None = None
    vocabulary: list[str] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """Settings that a run went on with, and since which step."""

    step: int
    changed: dict[str, Any]


@dataclass(frozen=True)
class _Digests:
    config: str
    models: list[str]


@dataclass(frozen=True)
class _Config:
    """Keys and types of a config.json."""

    format: str
    training: dict[str, Any]  # a `_Settings`
    model: DLRMConfig
    embedding: _Embedding
    sizes: _Sizes
    dataset: _Dataset
    changes: list[Change] = field(default_factory=list)
    digests: _Digests | None = None


def new_config(training: ResolvedConfig, dataset: Dataset, model: DLRM) -> dict[str, Any]:
    """That of a run which begins."""
    tables = model.embedding.tables().values()
    dense = (a.nbytes for n, a in model.parameters().items() if not n.startswith(PREFIX))
    return {
        "format": FORMAT,
        "training": training.to_dict(),
        "model": model.config.to_dict(),
        "embedding": model.embedding.describe(),
        "sizes": {
            "embedding_bytes": model.embedding.num_bytes,
            "vocabulary_bytes": sum(array.nbytes for array in tables),
            "dense_bytes": sum(dense),
        },
        "dataset": dataset_facts(dataset),
        "digests": {"models": []},
    }


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write a config.json at once, with its digest."""
    config["digests"]["config"] = _digest(config)
    write_text(path, json.dumps(config, indent=2) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """A config.json; settings that came with later versions are at their defaults.

    Raises
    ------
    DamagedRunError : it is of a run, but damaged or edited.
    NotARunError : it is another program's.
    ValueError : it is not JSON.
    OSError : it cannot be read.
    """
    # Whose it was cannot be told, so --overwrite does not replace it.
    config = parse(read_bytes(path), str(path), "restore it from a copy, or choose another output")
    known = isinstance(config, dict) and config.get("format") in (FORMAT, WITHOUT_DIGESTS)
    if not known:
        raise NotARunError(
            f"{path} is not the config of a run (format {FORMAT!r}); give the --output of robe "
            f"train"
        )
    checked = convert(config, _Config, str(path), REMEDY, DamagedRunError)
    settings: Any = convert(
        checked.training, _Settings, f"training in {path}", REMEDY, DamagedRunError
    )
    for name, value in (("training", settings), ("model", checked.model)):
        config[name] = json.loads(json.dumps(asdict(value)))  # an integer that was 1.0 is 1
    digests = config.get("digests")
    if digests is None:
        config.pop("digests", None)
    if (digests is None) != (config["format"] == WITHOUT_DIGESTS):
        words = "lacks" if digests is None else "has"
        raise DamagedRunError(f"{path} is {config['format']!r} but {words} digests; {REMEDY}")
    if digests is not None and digests["config"] != _digest(config):
        raise DamagedRunError(
            f"{path} is not as robe train wrote it: its digest is another, so it is damaged or was "
            f"edited; {REMEDY}"
        )
    return config


def _digest(config: Mapping[str, Any]) -> str:
    """Of all but itself; settings at their defaults are left out, as earlier versions lack some."""
    settings = config["training"].items()
    own = {name: value for name, value in settings if value != _DEFAULTS.get(name)}
    models = {"models": config["digests"]["models"]}
    facts = {**config, "training": own, "digests": models}
    return digest(json.dumps(facts, sort_keys=True).encode())


_DEFAULTS: dict[str, Any] = json.loads(json.dumps({n: s.default for n, s in SETTINGS.items()}))
