"""Settings: one declaration, from which checks, options, the resume rule and docs are made."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest

from robe_numba.cli.commands import train as command
from robe_numba.dlrm import DEVICES, KINDS, OPTIMIZERS, PRESETS
from robe_numba.dlrm.layers.interaction import INTERACTIONS
from robe_numba.parallel.exchange import AUTO, EXCHANGES
from robe_numba.spec import HASHES
from robe_numba.training import TrainingConfig
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.settings import SETTINGS, settings_table

ROOT = Path(__file__).resolve().parents[2]
# What a resumed run may change: it affects future steps alone.
RESUMABLE = {
    "lr", "embedding_lr", "warmup_steps", "decay_start", "decay_steps", "clip_norm", "epochs",
    "evaluations", "evaluation_steps", "target_auc", "patience", "exchange", "ranks",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("preset", PRESETS),
        ("interaction", INTERACTIONS),
        ("embedding", KINDS),
        ("hash", HASHES),
        ("optimizer", OPTIMIZERS),
        ("embedding_optimizer", OPTIMIZERS),
        ("device", DEVICES),
        ("exchange", (AUTO, *EXCHANGES)),
    ],
)
def test_choices_are_what_the_package_offers(name, known):
    assert sorted(SETTINGS[name].choices) == sorted(known)
    words = SETTINGS[name].help.replace(",", " ").replace(".", " ").replace(":", " ").split()
    assert name == "embedding_optimizer" or set(known) <= set(words)


def test_the_command_has_an_option_for_every_setting_but_the_number_of_processes():
    options = inspect.signature(command.train).parameters
    assert SETTINGS.keys() - options.keys() == {"ranks"}
    for name in SETTINGS.keys() & options.keys():
        assert options[name].default == SETTINGS[name].default
    assert "settings" not in options


def test_the_table_in_the_docs_is_that_of_the_settings():
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_some_settings_may_change_on_resume():
    assert {name for name, setting in SETTINGS.items() if setting.resumable} == RESUMABLE


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("embedding", KINDS)
def test_resolved_settings_leave_nothing_open(preset, embedding):
    size = {} if embedding == "full" else {"compression": 10}
    config = TrainingConfig(preset=preset, embedding=embedding, **size).resolved()
    for name in ResolvedConfig.__annotations__:
        assert getattr(config, name) is not None, name
    assert config.resolved() == config
    again = TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.resolved() == config
    assert list(config.to_dict()) == [field.name for field in fields(TrainingConfig)]


def test_settings_are_equal_by_value_whether_resolved_or_not():
    asked = TrainingConfig(compression=100, decay_start=10)
    resolved = asked.resolved()
    read = TrainingConfig.from_dict(resolved.to_dict())
    assert read == resolved
    assert len({read, resolved}) == 1
    assert asked != resolved
    assert asked.schedule(50) == resolved.schedule(50)


def test_settings_survive_json_and_fill_in_the_preset():
    settings = TrainingConfig(compression=20, fractions=(0.5, 0.25, 0.25))
    assert TrainingConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    filled = TrainingConfig(embedding="full", preset="mlperf").resolved()
    assert (filled.embedding_dim, filled.batch_size, filled.optimizer) == (128, 2048, "sgd")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding": "magic"}, "robe, full, hashed, qr"),
        ({"preset": "big"}, "default, kaggle, mlperf"),
        ({"optimizer": "adam"}, "sgd, adagrad"),
        ({"hash": "md5"}, "multiply-shift"),
        ({"split_by": "luck"}, "order, random"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": -1.0}, "lr is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": 0.0}, "lr is 0"),
        ({"compression": 0.5}, "compression is 0.5"),
        ({"compression": None}, "neither is given"),
        ({"num_parameters": 5}, "both are given"),
        ({"block_size": 0}, "block_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"alignment": -1}, "alignment is -1"),
        ({"embedding": "hashed", "block_size": 4}, "'hashed' has no block_size"),
        ({"embedding": "qr", "sign": True}, "'qr' has no sign.*'robe' or 'hashed'"),
        ({"embedding": "full"}, "'full' has no compression"),
        ({"decay_steps": 5}, "without a decay_start"),
        ({"warmup_steps": 9, "decay_start": 3}, "within the warm-up"),
        ({"target_auc": 1.0}, "target_auc is 1.0; it must be below 1"),
        ({"patience": 0}, "patience is 0"),
        ({"clip_norm": 0}, "clip_norm is 0"),
        ({"evaluation_steps": 0}, "evaluation_steps is 0"),
        ({"block_state": True, "optimizer": "sgd"}, "sums of Adagrad"),
        (
            {"compression": None, "num_parameters": 9, "cardinalities": (5,) * 26},
            "what a compression is counted from",
        ),
        ({"top": (0,)}, "top is 0"),
        ({"split_by": "day", "fractions": (0.5, 0.25, 0.25)}, "leave fractions out"),
    ],
)
def test_bad_settings_are_refused_with_the_rule(change, words):
    with pytest.raises(ValueError, match=words):
        TrainingConfig(**{"embedding": "robe", "compression": 10, **change})


@pytest.mark.parametrize("change", [{"compression": "10"}, {"epochs": 1.5}, {"seed": None}])
def test_settings_of_the_wrong_type_are_refused(change):
    with pytest.raises(TypeError, match=next(iter(change))):
        TrainingConfig(**{"embedding": "robe", "compression": 10, **change})
