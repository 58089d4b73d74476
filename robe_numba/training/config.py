"""What a training run is asked to do: everything that decides its bits, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Self

import numpy as np

from robe_numba.checks.scalars import check_scalar
from robe_numba.dlrm import PRESETS, Schedule
from robe_numba.spec import check_int
from robe_numba.training.pooling import parse_pooling
from robe_numba.training.settings import SETTINGS, RunSetting, Settings, applies


@dataclass(frozen=True, eq=False)
class TrainingConfig(Settings):
    """Settings of one run, checked; None takes a default that `resolved` fills in.

    Parameters
    ----------
    **settings
        The fields of `Settings`, which docs/settings.md lists.

    Raises
    ------
    TypeError, ValueError
        A value has the wrong type, is out of range or unknown, or does not go with the others.
        The message names it.
    """

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, _checked(setting, getattr(self, name)))
        self._check_kind()
        self._check_size()
        self._check_schedule()
        self._check_combinations()

    def _check_kind(self) -> None:
        """Refuse settings that the kind of embedding would ignore."""
        for name, setting in SETTINGS.items():
            if not applies(name, self.embedding) and getattr(self, name) != setting.default:
                raise ValueError(
                    f"embedding {self.embedding!r} has no {name}; leave it out, or choose "
                    f"embedding {' or '.join(map(repr, setting.kinds))}"
                )

    def _check_size(self) -> None:
        given = (self.compression is not None) + (self.num_parameters is not None)
        if self.embedding != "full" and given != 1:
            were = "both are given" if given else "neither is given"
            raise ValueError(
                f"embedding {self.embedding!r} needs its size, by compression or by "
                f"num_parameters; {were}"
            )
        if self.cardinalities is not None and self.compression is None:
            raise ValueError(
                "cardinalities are what a compression is counted from; give a compression too, or "
                "leave them out"
            )

    def _check_schedule(self) -> None:
        warmup_steps, decay_start, decay_steps = self._schedule()
        if decay_steps is not None and decay_start is None:
            raise ValueError(
                f"decay_steps is {decay_steps} without a decay_start; give the step at which the "
                f"decay starts"
            )
        Schedule(warmup_steps, decay_start, decay_steps or 1)

    def _check_combinations(self) -> None:
        optimizer = self.embedding_optimizer or self.optimizer or PRESETS[self.preset].optimizer
        if self.block_state and optimizer != "adagrad":
            raise ValueError(
                f"block_state is about the sums of Adagrad, but the embedding's optimizer is "
                f"{optimizer!r}; leave it out, or choose embedding_optimizer 'adagrad'"
            )
        crossing = self.cross_layers is not None or self.cross_rank is not None
        if crossing and self._interaction() != "dcn":
            raise ValueError(
                f"cross_layers and cross_rank are about interaction 'dcn', but it is "
                f"{self._interaction()!r}; leave them out, or choose interaction 'dcn'"
            )
        if self.split_by == "day" and self.fractions != SETTINGS["fractions"].default:
            raise ValueError(
                f"fractions are {self.fractions}, but split_by 'day' validates and tests with the "
                f"last day; leave fractions out, or choose split_by 'order'"
            )

    def _interaction(self) -> str:
        return self.interaction or PRESETS[self.preset].config.interaction

    def _schedule(self) -> tuple[int, int | None, int | None]:
        """Warm-up steps, decay start and decay steps, from the preset where they are None."""
        preset = PRESETS[self.preset].schedule
        preset_steps = None if preset.decay_start is None else preset.decay_steps
        return (
            preset.warmup_steps if self.warmup_steps is None else self.warmup_steps,
            preset.decay_start if self.decay_start is None else self.decay_start,
            preset_steps if self.decay_steps is None else self.decay_steps,
        )

    def _sign(self) -> bool | None:
        if self.sign is not None or not applies("sign", self.embedding):
            return self.sign
        return (self.embedding, self.preset) == ("robe", "default") and self.hash != "uma"

    def resolved(self) -> "ResolvedConfig":
        """The same settings with every default filled in."""
        preset = PRESETS[self.preset]
        warmup_steps, decay_start, decay_steps = self._schedule()
        optimizer, lr = self.optimizer or preset.optimizer, self.lr or preset.lr
        dim = self.embedding_dim or preset.config.embedding_dim
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {
            "embedding_dim": dim,
            "bottom": preset.config.bottom,
            "top": preset.config.top,
            "interaction": self._interaction(),
            "sign": self._sign(),
            "block_size": dim if self.embedding == "robe" else None,
            "optimizer": optimizer,
            "lr": lr,
            "embedding_optimizer": optimizer,
            "embedding_lr": lr,
            "warmup_steps": warmup_steps,
            "decay_start": decay_start,
            "decay_steps": decay_steps,
            "batch_size": preset.batch_size,
        }
        if self._interaction() == "dcn":
            defaults["cross_layers"] = preset.config.cross_layers
            defaults["cross_rank"] = preset.config.cross_rank
        missing = {name: value for name, value in defaults.items() if given[name] is None}
        return ResolvedConfig(**given | missing)

    def schedule(self, total_steps: int) -> Schedule:
        """How the learning rates change over a number of steps."""
        return self.resolved().schedule(total_steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingConfig) and astuple(self) == astuple(other)

    def __hash__(self) -> int:
        return hash(astuple(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` described."""
        return cls(**fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedConfig(TrainingConfig):
    """What a run uses: settings without open defaults, as `TrainingConfig.resolved` makes them."""

    embedding_dim: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    interaction: str
    optimizer: str
    lr: float
    embedding_optimizer: str
    embedding_lr: float
    warmup_steps: int
    batch_size: int

    def schedule(self, total_steps: int) -> Schedule:
        start = self.decay_start
        until_the_end = max(1, total_steps - start) if start is not None else 1
        return Schedule(self.warmup_steps, start, self.decay_steps or until_the_end)


def _checked(setting: RunSetting, value: Any) -> Any:
    """A value in Python's own types, so that equal settings are equal in JSON."""
    name = setting.name
    if value is None and setting.optional:
        return None
    if setting.choices:
        if value not in setting.choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(setting.choices)}")
        return value
    if setting.kind is int:
        return _checked_int(setting, value)
    if setting.kind is float:
        return _checked_float(setting, value)
    if name == "fractions":  # which the split checks
        return tuple(value)
    if name == "pooling":
        parse_pooling(value)
        return value
    if setting.kind is bool:
        return value
    return tuple(_checked_int(setting, size) for size in value)


def _checked_int(setting: RunSetting, value: Any) -> int:
    at_least = 1 if setting.at_least is None else setting.at_least
    return check_int(setting.name, value, at_least, setting.at_most)


def _checked_float(setting: RunSetting, value: Any) -> float:
    name = setting.name
    number = check_scalar(name, value, setting.at_least or 0, np.float32)
    if number == 0:
        raise ValueError(f"{name} is 0; it must be positive")
    if setting.below is not None and number >= setting.below:
        raise ValueError(f"{name} is {number}; it must be below {setting.below}")
    return number
