"""config.json of a run: settings, shape of the model, dataset, and digests.

The digests ensure that a model is scored with the settings it was trained with. One is that of
config.json itself; the others are those that model.safetensors may have. While that file is being
replaced there are two, old and new, so that the run stays valid if the process is killed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta

from data_tools import Dataset
from data_tools.options import Options
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
    """A file of a run is damaged; the message names it and a remedy."""


class NotARunError(ValueError):
    """A config.json of another program."""


# Types of the settings, and few of their rules: others may be newer than the run and must not
# keep it from being read.
_TYPES = get_type_hints(Settings) | {
    "embedding": Literal[KINDS],
    "split_by": Literal[SETTINGS["split_by"].choices],
    "seed": Annotated[int, Meta(ge=0)],
}
_StoredSettings = make_dataclass(
    "_StoredSettings", [(name, _TYPES[name], setting.default) for name, setting in SETTINGS.items()]
)


@dataclass(frozen=True)
class _EmbeddingFacts:
    """The result of `Embedding.describe`."""

    kind: str
    specs: dict[str, dict[str, Any]]
    optimizer: str
    eps: float
    state_block: int = 1
    pooling: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        specs_from(self.kind, self.specs)


_Bytes = Annotated[int, Meta(ge=0, lt=2**62)]


@dataclass(frozen=True)
class _ModelSizes:
    embedding_bytes: _Bytes
    vocabulary_bytes: _Bytes
    dense_bytes: _Bytes


@dataclass(frozen=True)
class _DatasetFacts:
    """The result of `dataset_facts`; earlier versions recorded less."""

    dense: list[str]
    categorical: list[str]
    dense_transform: str
    index_dtype: Literal["uint32", "uint64"]
    rows: int
    sources: list[str]
    max_ind_range: int | None = None
    ids: str | None = None
    min_count: int | None = None
    vocabulary: list[str] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)
    multi_hot: list[str] = field(default_factory=list)
    weights: list[str | None] = field(default_factory=list)
    ids_per_row: list[float] = field(default_factory=list)
    max_length: int | None = None
    multi_hot_sizes: list[int] | None = None
    multi_hot_seed: int | None = None
    known_ids: list[Annotated[int, Meta(ge=0, le=2**32)]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = None if self.multi_hot_sizes is None else tuple(self.multi_hot_sizes)
        Options(
            dense_transform=self.dense_transform,
            max_ind_range=self.max_ind_range,
            ids=self.ids or "raw",
            max_length=self.max_length,
            multi_hot_sizes=sizes,
            multi_hot_seed=self.multi_hot_seed,
        )
        if sizes is not None:
            self._check_sizes(sizes)
        if len(self.weights) not in (0, len(self.multi_hot)):
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.multi_hot)} multi-hot columns"
            )

    def _check_sizes(self, sizes: tuple[int, ...]) -> None:
        """Each column has a size, and those of more than 1 are the first multi-hot ones."""
        made = sum(size > 1 for size in sizes)
        if len(sizes) - made != len(self.categorical) or made > len(self.multi_hot):
            raise ValueError(f"multi_hot_sizes are {len(sizes)}, of other columns than there are")
        if len(self.known_ids) not in (0, len(sizes)):
            raise ValueError(
                f"there are {len(self.known_ids)} numbers of known ids for {len(sizes)} columns"
            )


@dataclass(frozen=True)
class Change:
    """Settings that were changed when a run was resumed, and the step from which they apply."""

    step: int
    changed: dict[str, Any]


@dataclass(frozen=True)
class _RunDigests:
    config: str
    models: list[str]


@dataclass(frozen=True)
class _RunConfig:
    """Keys and types of config.json."""

    format: str
    training: dict[str, Any]  # a `_StoredSettings`
    model: DLRMConfig
    embedding: _EmbeddingFacts
    sizes: _ModelSizes
    dataset: _DatasetFacts
    changes: list[Change] = field(default_factory=list)
    digests: _RunDigests | None = None

    def __post_init__(self) -> None:
        """Kernels count on as many features as the model has."""
        facts, lists = self.dataset, len(self.model.pooling)
        for columns, number in (
            (facts.dense, self.model.num_dense),
            (facts.categorical, self.model.num_single),
            (facts.multi_hot, lists),
            (facts.ids_per_row, lists),
            (facts.weights or facts.multi_hot, lists),
        ):
            if len(columns) != number:
                raise ValueError(
                    f"the dataset has {len(columns)} columns where the model has {number}"
                )


def new_config(training: ResolvedConfig, dataset: Dataset, model: DLRM) -> dict[str, Any]:
    """The config.json of a new run."""
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
    """Write config.json atomically, with its digest."""
    config["digests"]["config"] = _digest(config)
    write_text(path, json.dumps(config, indent=2) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """The content of config.json, with defaults for settings that are newer than it.

    Raises
    ------
    DamagedRunError
        It belongs to a run, but is damaged or was edited.
    NotARunError
        It belongs to another program.
    ValueError
        It is not JSON.
    OSError
        It cannot be read.
    """
    # It may belong to another program, so --overwrite does not replace it.
    config = parse(read_bytes(path), str(path), "restore it from a copy, or choose another output")
    known = isinstance(config, dict) and config.get("format") in (FORMAT, WITHOUT_DIGESTS)
    if not known:
        raise NotARunError(
            f"{path} is not the config of a run (format {FORMAT!r}); give the --output of robe "
            f"train"
        )
    checked = convert(config, _RunConfig, str(path), REMEDY, DamagedRunError)
    settings: Any = convert(
        checked.training, _StoredSettings, f"training in {path}", REMEDY, DamagedRunError
    )
    for name, value in (("training", asdict(settings)), ("model", checked.model.to_dict())):
        config[name] = json.loads(json.dumps(value))  # an integer that was 1.0 is 1
    digests = config.get("digests")
    if digests is None:
        config.pop("digests", None)
    if (digests is None) != (config["format"] == WITHOUT_DIGESTS):
        words = "lacks" if digests is None else "has"
        raise DamagedRunError(f"{path} is {config['format']!r} but {words} digests; {REMEDY}")
    if digests is not None and digests["config"] != _digest(config):
        raise DamagedRunError(
            f"{path} is not as robe train wrote it: its digest differs, so it is damaged or was "
            f"edited; {REMEDY}"
        )
    return config


def _digest(config: Mapping[str, Any]) -> str:
    """Digest of the rest; without settings at their defaults, since earlier versions lack some."""
    settings = config["training"].items()
    own = {name: value for name, value in settings if value != _DEFAULTS.get(name)}
    models = {"models": config["digests"]["models"]}
    facts = {**config, "training": own, "digests": models}
    return digest(json.dumps(facts, sort_keys=True).encode())


_DEFAULTS: dict[str, Any] = json.loads(json.dumps({n: s.default for n, s in SETTINGS.items()}))
