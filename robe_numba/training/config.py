"""What a training run is asked to do: everything that decides its bits, and nothing else."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from robe_numba.checks import check_scalar
from robe_numba.dlrm import DEVICES, KINDS, OPTIMIZERS, PRESETS
from robe_numba.spec import HASHES, MAX_SIZE, check_int

SPLIT_ORDERS = ("order", "random", "day")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run; None takes the preset's or the documented default.

    Parameters
    ----------
    preset : gives widths, optimizer, batch size and learning rate: "kaggle" (d = 16) and "mlperf"
        (d = 128) as published, or "default", the shape of "kaggle" with Adagrad.
    embedding : "robe", "full", "hashed" or "qr".
    compression : elements of the uncompressed tables per element kept, at least 1; the tables
        have one row per distinct training id and one for unknown ids. Not for "full".
    num_parameters : elements to keep, instead of a compression.
    embedding_dim : d; None is the preset's.
    block_size : Z, elements, of "robe"; None is d.
    hash, sign : of "robe" and "hashed", see `RobeSpec`.
    alignment : of "robe", see `RobeSpec`.
    optimizer, lr : of the dense part and, unless they have their own, of the embedding.
    embedding_optimizer, embedding_lr : of the embedding.
    epochs : passes over the training rows.
    batch_size : rows.
    evaluations : times per epoch that the validation rows are scored.
    scale : half-width of the initial values of the embedding; None is sqrt(1 / largest table).
    fractions : shares of train, validation and test rows. Not for a split by "day".
    split_by : "order" (time order, as the rows stand), "random" (seeded), or "day" (the last day
        validates and tests, see `data_tools.split.day_rows`).
    seed : of initial values, hashes, split and shuffles.
    device : "cpu" or "cuda", one GPU.

    Raises
    ------
    TypeError, ValueError : a value is no number, out of range or unknown; the message names it.
    """

    preset: str = "default"
    embedding: str = "robe"
    compression: float | None = None
    num_parameters: int | None = None
    embedding_dim: int | None = None
    block_size: int | None = None
    hash: str = "multiply-shift"
    sign: bool = False
    alignment: int = 1
    optimizer: str | None = None
    lr: float | None = None
    embedding_optimizer: str | None = None
    embedding_lr: float | None = None
    epochs: int = 1
    batch_size: int | None = None
    evaluations: int = 4
    scale: float | None = None
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_by: str = "order"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", tuple(self.fractions))
        choices: dict[str, Iterable[str | None]] = {
            "preset": PRESETS,
            "embedding": KINDS,
            "hash": HASHES,
            "optimizer": (*OPTIMIZERS, None),
            "embedding_optimizer": (*OPTIMIZERS, None),
            "split_by": SPLIT_ORDERS,
            "device": DEVICES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(str(word) for word in allowed if word is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {words}")
        counts = ("epochs", "batch_size", "evaluations", "num_parameters", "embedding_dim")
        for name in (*counts, "block_size", "alignment"):
            if getattr(self, name) is not None:
                count = check_int(name, getattr(self, name), 1, MAX_SIZE)
                object.__setattr__(self, name, count)
        object.__setattr__(self, "seed", check_int("seed", self.seed, 0, 2**64 - 1))
        for name in ("lr", "embedding_lr", "scale", "compression"):
            if getattr(self, name) is not None:
                value = check_scalar(name, getattr(self, name), 1 if name == "compression" else 0)
                if value == 0:
                    raise ValueError(f"{name} is 0; it must be positive")
                object.__setattr__(self, name, value)
        self._check_size()
        self._check_options()

    def _check_size(self) -> None:
        given = (self.compression is not None) + (self.num_parameters is not None)
        if self.embedding == "full" and given:
            raise ValueError(
                "embedding 'full' is the uncompressed table; leave compression and "
                "num_parameters out, or choose another embedding"
            )
        if self.embedding != "full" and given != 1:
            were = "both are given" if given else "neither is given"
            raise ValueError(
                f"embedding {self.embedding!r} needs its size, by compression or by "
                f"num_parameters; {were}"
            )

    def _check_options(self) -> None:
        """Refuse what the kind of embedding or of split would ignore."""
        takes = {"robe": ("block_size", "hash", "sign", "alignment"), "hashed": ("hash", "sign")}
        for name in takes["robe"]:
            default = type(self).__dataclass_fields__[name].default
            if name not in takes.get(self.embedding, ()) and getattr(self, name) != default:
                raise ValueError(
                    f"embedding {self.embedding!r} has no {name}; leave it out, or choose "
                    f"embedding 'robe'"
                )
        if self.split_by == "day" and self.fractions != type(self).fractions:
            raise ValueError(
                f"fractions are {self.fractions}, but split_by 'day' validates and tests with the "
                f"last day; leave fractions out, or choose split_by 'order'"
            )

    def resolved(self) -> Self:
        """The same settings with every default filled in."""
        preset = PRESETS[self.preset]
        optimizer = self.optimizer or preset.optimizer
        lr = self.lr or preset.lr
        dim = self.embedding_dim or preset.config.embedding_dim
        return replace(
            self,
            embedding_dim=dim,
            block_size=(self.block_size or dim) if self.embedding == "robe" else None,
            optimizer=optimizer,
            lr=lr,
            embedding_optimizer=self.embedding_optimizer or optimizer,
            embedding_lr=self.embedding_lr or lr,
            batch_size=self.batch_size or preset.batch_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` described."""
        return cls(**fields)
