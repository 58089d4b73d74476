"""A run loaded with its embedding in fewer bytes."""

import weakref

import numpy as np
import pytest

from robe_numba.quantization.storages import STORAGES
from robe_numba.training import RunFolder, evaluate, score, train
from robe_numba.training.run import folder as run_folder
from tests.training.runs import SIZES, small_config


@pytest.mark.parametrize("embedding", SIZES)
def test_a_run_is_scored_by_what_is_stored(dataset, tmp_path, embedding):
    run = train(dataset, small_config(embedding), tmp_path / "run")
    split, plain = dataset.split("test"), run.load_model()
    whole, trained = score(plain, split), evaluate(plain, split)
    assert score(run.load_model(storage="float32"), split).tobytes() == whole.tobytes()
    for storage, most, ratio in (
        ("float16", 2e-3, 2),
        ("bfloat16", 0.02, 2),
        ("int8", 0.02, 4 / (1 + 4 / 128)),
    ):
        model = run.load_model(storage=storage)
        assert 0 < np.abs(score(model, split) - whole).max() < most
        assert abs(evaluate(model, split)["auc"] - trained["auc"]) < 0.01
        stored, before = model.embedding.num_bytes, plain.embedding.num_bytes
        assert abs(stored - before / ratio) <= 4 * len(plain.embedding.parameters())
        for name, array in plain.parameters().items():
            if not name.startswith("embedding."):
                np.testing.assert_array_equal(model.parameters()[name], array)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_float32_array_is_given_up(finished, monkeypatch, storage):
    read, arrays = run_folder.read_weights, []

    def watched(path):
        found = read(path)
        arrays.append(weakref.ref(found["embedding.array"]))
        return found

    monkeypatch.setattr(run_folder, "read_weights", watched)
    model = RunFolder(finished).load_model(storage=storage)
    (array,) = arrays
    kept = model.embedding.parameters().get("array")
    assert array() is (kept if storage == "float32" else None)


def test_what_cannot_be_stored_says_so(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"storage is 'int4'; choose one of float32"):
        train(dataset, small_config(), tmp_path / "run").load_model(storage="int4")
    run = RunFolder(tmp_path / "run")
    model = run.load_model()
    model.embedding.parameters()["array"][3] = 1e6
    run.save_model(model)
    with pytest.raises(ValueError, match=r"^the array has the value 1000000.0, but float16 holds"):
        run.load_model(storage="float16")
    run.load_model(storage="bfloat16")
    run.load_model(storage="int8")
