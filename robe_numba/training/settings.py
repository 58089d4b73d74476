"""The settings of a run, each stated once: type, default, help, bounds and where it applies.

The options of `robe train`, the keys of `robe sweep`, the checks of `TrainingConfig`, what may
change when a run is resumed and the table in docs/settings.md come from the fields of `Settings`.
This module does not import Numba, so that `robe train --help` is quick.
"""

from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

from robe_numba.formatting import markdown_table

KINDS = ("robe", "full", "hashed", "qr")
OPTIMIZERS = ("sgd", "adagrad")


class RunSetting(NamedTuple):
    """What is known about a field of `Settings`."""

    help: str
    choices: tuple[str, ...] = ()
    at_least: int | None = None  # None is 1 for integers, and any positive value for floats
    at_most: int = 2**62  # of integers
    below: float | None = None  # of floats
    kinds: tuple[str, ...] = KINDS  # of embedding, which have the setting
    resumable: bool = False  # a resumed run may change it: it affects future steps alone
    option: str | None = ""  # spelling on the command line, if not its name; None is not there
    # From the field itself.
    name: str = ""
    kind: Any = None  # int, float, str, bool, or a tuple type such as tuple[int, ...]
    optional: bool = False  # may be None
    default: Any = None


def setting(default: Any, help: str, **facts: Any) -> Any:
    """A field of `Settings`; `facts` are fields of `RunSetting`."""
    return field(default=default, metadata={"setting": RunSetting(help, **facts)})


@dataclass(frozen=True)
class Settings:
    """Settings of one run, not checked: see `TrainingConfig`.

    A default of None takes the value of the preset, or the one that the help names.
    """

    preset: str = setting(
        "default",
        "Widths, optimizer, learning rate and batch size: default, or as published kaggle (d=16), "
        "mlperf, mlperf-32k, mlperf-55k or mlperf-dcnv2 (d=128).",
        choices=("default", "kaggle", "mlperf", "mlperf-32k", "mlperf-55k", "mlperf-dcnv2"),
    )
    embedding: str = setting("robe", "robe, full, hashed or qr.", choices=KINDS)
    compression: float | None = setting(
        None,
        "How many times smaller than the uncompressed tables.",
        at_least=1,
        kinds=("robe", "hashed", "qr"),
    )
    num_parameters: int | None = setting(
        None, "Elements to keep, instead of --compression.", kinds=("robe", "hashed", "qr")
    )
    cardinalities: tuple[int, ...] | None = setting(
        None,
        "Rows of the uncompressed tables: kaggle, terabyte, mlperf, 1000,200,30 or a file. "
        "Default: the distinct ids of the training rows, and one more per table.",
        kinds=("robe", "hashed", "qr"),
    )
    embedding_dim: int | None = setting(
        None, "d, elements per embedding. Default: the preset's.", option="--dim"
    )
    bottom: tuple[int, ...] | None = setting(
        None, "Hidden widths of the bottom MLP, such as 512-256-64. Default: the preset's."
    )
    top: tuple[int, ...] | None = setting(
        None, "Hidden widths of the top MLP. Default: the preset's."
    )
    interaction: str | None = setting(
        None,
        "How embeddings are combined: dot (products of pairs), cat, or dcn (a cross network). "
        "Default: the preset's.",
        choices=("dot", "cat", "dcn"),
    )
    cross_layers: int | None = setting(
        None, "Layers of the cross network of dcn. Default: the preset's."
    )
    cross_rank: int | None = setting(
        None, "Rank of the cross network's weights. Default: the preset's."
    )
    pooling: str = setting(
        "sum",
        "How lists of ids are pooled: sum, mean or max, or for some features by name, as "
        "genres=mean,seen=max; the rest are summed.",
    )
    block_size: int | None = setting(None, "Z, elements per hash. Default: d.", kinds=("robe",))
    hash: str = setting(
        "multiply-shift",
        "multiply-shift, paper or uma.",
        choices=("multiply-shift", "paper", "uma"),
        kinds=("robe", "hashed"),
    )
    sign: bool | None = setting(
        None,
        "Hashed signs. Default: on for robe with the default preset, unless the hash is uma.",
        kinds=("robe", "hashed"),
        option="--sign/--no-sign",
    )
    alignment: int = setting(1, "Blocks start at multiples of this many elements.", kinds=("robe",))
    optimizer: str | None = setting(
        None, "sgd or adagrad. Default: the preset's.", choices=OPTIMIZERS
    )
    lr: float | None = setting(None, "Learning rate. Default: the preset's.", resumable=True)
    embedding_optimizer: str | None = setting(
        None, "Optimizer of the embedding. Default: --optimizer.", choices=OPTIMIZERS
    )
    embedding_lr: float | None = setting(
        None, "Learning rate of the embedding. Default: --lr.", resumable=True
    )
    embedding_eps: float = setting(
        0.003, "eps of the embedding's Adagrad; larger values slow down rare ids."
    )
    block_state: bool = setting(
        False,
        "Adagrad keeps one sum per block of Z elements, not per element.",
        option="--block-state",
    )
    warmup_steps: int | None = setting(
        None,
        "Steps over which the learning rates rise linearly. Default: the preset's.",
        at_least=0,
        resumable=True,
    )
    decay_start: int | None = setting(
        None,
        "Step at which the learning rates start to fall, quadratically. Default: the preset's.",
        at_least=0,
        resumable=True,
    )
    decay_steps: int | None = setting(
        None, "Steps of the fall. Default: the preset's, or until the end.", resumable=True
    )
    clip_norm: float | None = setting(
        None, "Scale longer gradients down to this norm.", resumable=True
    )
    epochs: int = setting(1, "Passes over the training rows.", resumable=True)
    batch_size: int | None = setting(
        None, "Rows per step, of all processes together. Default: the preset's."
    )
    evaluations: int = setting(4, "Validations per epoch.", resumable=True)
    evaluation_steps: int | None = setting(
        None, "Validate every N steps, instead of --evaluations.", resumable=True
    )
    target_auc: float | None = setting(
        None, "Stop at the first validation AUC that reaches this.", below=1, resumable=True
    )
    patience: int | None = setting(
        None, "Stop after this many validations without a better AUC.", resumable=True
    )
    scale: float | None = setting(
        None, "Half-width of the embedding's initial values. Default: 0.001."
    )
    fractions: tuple[float, float, float] = setting(
        (0.8, 0.1, 0.1), "Shares of training, validation and test rows."
    )
    split_by: str = setting(
        "order",
        "order (of time), day (the last day validates and tests) or random.",
        choices=("order", "random", "day"),
    )
    seed: int = setting(0, "The same seed gives the same bytes.", at_least=0, at_most=2**64 - 1)
    device: str = setting("cpu", "cpu, or cuda: one GPU per process.", choices=("cpu", "cuda"))
    exchange: str = setting(
        "auto",
        "How processes exchange the embedding's gradient: gather, reduce, or auto for fewer bytes.",
        choices=("auto", "gather", "reduce"),
        resumable=True,
    )
    ranks: int = setting(
        1, "Processes that train together, set by the launcher.", resumable=True, option=None
    )


def _declared() -> dict[str, RunSetting]:
    hints, found = get_type_hints(Settings), {}
    for each in fields(Settings):
        hint = hints[each.name]
        optional = isinstance(hint, UnionType)
        kind = get_args(hint)[0] if optional else hint
        facts = {"name": each.name, "kind": kind, "optional": optional, "default": each.default}
        found[each.name] = each.metadata["setting"]._replace(**facts)
    return found


SETTINGS = _declared()
# Those that a resumed run may change.
RESUMABLE = tuple(name for name, each in SETTINGS.items() if each.resumable)
# Runs of earlier versions lack these; their defaults are what such runs did.
LATER = ("interaction", "cross_layers", "cross_rank", "pooling")


def applies(name: str, embedding: str) -> bool:
    """Whether a kind of embedding has a setting; unknown names and kinds are refused elsewhere."""
    return name not in SETTINGS or embedding not in KINDS or embedding in SETTINGS[name].kinds


def settings_table() -> str:
    """The Markdown table of docs/settings.md."""
    rows = []
    for name, each in SETTINGS.items():
        default = "" if each.default is None else f"`{each.default}`"
        kinds = "" if each.kinds == KINDS else ", ".join(each.kinds)
        rows.append((f"`{name}`", each.help, default, kinds, "yes" if each.resumable else ""))
    return markdown_table(
        ("setting", "meaning", "default", "only for", "may change on resume"), rows
    )


if __name__ == "__main__":
    print(settings_table())
