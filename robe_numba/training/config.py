"""What a training run is asked to do: everything that decides its bits, and nothing else."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from robe_numba.checks.arrays import check_scalar
from robe_numba.dlrm import DEVICES, KINDS, OPTIMIZERS, PRESETS, Schedule
from robe_numba.parallel.exchange import AUTO, EXCHANGES
from robe_numba.spec import HASHES, MAX_SIZE, check_int
from robe_numba.training.settings import Settings

SPLIT_ORDERS = ("order", "random", "day")
POSITIVE = (
    "lr",
    "embedding_lr",
    "embedding_eps",
    "scale",
    "compression",
    "clip_norm",
    "target_auc",
)
# Settings that are counts, and the least of each.
COUNTS = {
    "epochs": 1,
    "batch_size": 1,
    "ranks": 1,
    "evaluations": 1,
    "evaluation_steps": 1,
    "patience": 1,
    "num_parameters": 1,
    "embedding_dim": 1,
    "block_size": 1,
    "alignment": 1,
    "warmup_steps": 0,
    "decay_start": 0,
    "decay_steps": 1,
}


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Settings of one run, checked: see `Settings`, whose parameters it takes.

    Raises
    ------
    TypeError, ValueError : a value is no number, out of range or unknown; the message names it.
    """

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
            "exchange": (AUTO, *EXCHANGES),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(str(word) for word in allowed if word is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {words}")
        self._check_numbers()
        self._check_size()
        self._check_options()

    def _check_numbers(self) -> None:
        """Bring numbers to Python's own types, so that equal settings are equal in JSON."""
        for name, least in COUNTS.items():
            if getattr(self, name) is not None:
                count = check_int(name, getattr(self, name), least, MAX_SIZE)
                object.__setattr__(self, name, count)
        object.__setattr__(self, "seed", check_int("seed", self.seed, 0, 2**64 - 1))
        for name in ("cardinalities", "bottom", "top"):
            if getattr(self, name) is not None:
                sizes = tuple(check_int(name, n, 1, MAX_SIZE) for n in getattr(self, name))
                object.__setattr__(self, name, sizes)
        for name in POSITIVE:
            if getattr(self, name) is not None:
                least = 1 if name == "compression" else 0
                value = check_scalar(name, getattr(self, name), least, np.float32)
                if value == 0:
                    raise ValueError(f"{name} is 0; it must be positive")
                object.__setattr__(self, name, value)
        if self.target_auc is not None and self.target_auc >= 1:
            raise ValueError(f"target_auc is {self.target_auc}; an AUC to be reached is below 1")

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
        if self.cardinalities is not None and self.compression is None:
            raise ValueError(
                "cardinalities are what a compression is counted from; give a compression too, or "
                "leave them out"
            )
        warmup_steps, decay_start, decay_steps = self._schedule()
        if decay_steps is not None and decay_start is None:
            raise ValueError(
                f"decay_steps is {decay_steps} without a decay_start; give the step at which the "
                f"decay begins"
            )
        Schedule(warmup_steps, decay_start, decay_steps or 1)
        optimizer = self.embedding_optimizer or self.optimizer or PRESETS[self.preset].optimizer
        if self.block_state and optimizer != "adagrad":
            raise ValueError(
                f"block_state is about the sums of Adagrad, but the embedding's optimizer is "
                f"{optimizer!r}; leave it out, or choose embedding_optimizer 'adagrad'"
            )
        if self.split_by == "day" and self.fractions != type(self).fractions:
            raise ValueError(
                f"fractions are {self.fractions}, but split_by 'day' validates and tests with the "
                f"last day; leave fractions out, or choose split_by 'order'"
            )

    def _schedule(self) -> tuple[int, int | None, int | None]:
        """Warm-up steps, decay start and decay steps, each the preset's where it is not given."""
        own = PRESETS[self.preset].schedule
        own_steps = None if own.decay_start is None else own.decay_steps
        return (
            own.warmup_steps if self.warmup_steps is None else self.warmup_steps,
            own.decay_start if self.decay_start is None else self.decay_start,
            own_steps if self.decay_steps is None else self.decay_steps,
        )

    def _sign(self) -> bool | None:
        if self.sign is not None or self.embedding not in ("robe", "hashed"):
            return self.sign
        return (self.embedding, self.preset) == ("robe", "default") and self.hash != "uma"

    def resolved(self) -> Self:
        """The same settings with every default filled in."""
        preset = PRESETS[self.preset]
        warmup_steps, decay_start, decay_steps = self._schedule()
        optimizer = self.optimizer or preset.optimizer
        lr = self.lr or preset.lr
        dim = self.embedding_dim or preset.config.embedding_dim
        return replace(
            self,
            embedding_dim=dim,
            bottom=preset.config.bottom if self.bottom is None else self.bottom,
            top=preset.config.top if self.top is None else self.top,
            sign=self._sign(),
            block_size=(self.block_size or dim) if self.embedding == "robe" else None,
            optimizer=optimizer,
            lr=lr,
            embedding_optimizer=self.embedding_optimizer or optimizer,
            embedding_lr=self.embedding_lr or lr,
            warmup_steps=warmup_steps,
            decay_start=decay_start,
            decay_steps=decay_steps,
            batch_size=self.batch_size or preset.batch_size,
        )

    def schedule(self, total_steps: int) -> Schedule:
        """What becomes of the learning rates over so many steps; of resolved settings."""
        start = self.decay_start
        until_the_end = max(1, total_steps - start) if start is not None else 1
        return Schedule(self.warmup_steps or 0, start, self.decay_steps or until_the_end)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` described."""
        return cls(**fields)
