"""Settings of small runs, and comparisons of what they leave."""

import numpy as np
from safetensors.numpy import load_file

from robe_numba.training import TrainingConfig

CONFIG = TrainingConfig(
    compression=20, lr=0.02, batch_size=256, evaluations=2, bottom=(32,), top=(32,)
)  # 8 steps per epoch, the last of 208 rows  # 8 steps per epoch, the last of 208 rows


def records(run):
    """metrics.jsonl without what the clock decides."""
    found = run.metrics()
    for record in found:
        record.pop("seconds", None)
        for name in ("seconds", "waited"):
            record.get("communication", {}).pop(name, None)
    return found


def assert_alike(run, other, tolerance=1e-5):
    """Two runs differ by rounding alone."""
    steps = [[r["step"] for r in x.metrics() if "validation" in r] for x in (run, other)]
    assert steps[0] == steps[1]
    assert len(steps[0]) > 1
    for part in ("validation", "test"):
        losses = [[r[part]["log_loss"] for r in x.metrics() if part in r] for x in (run, other)]
        np.testing.assert_allclose(*losses, rtol=tolerance)
    found, expected = (load_file(x.path / "model.safetensors") for x in (run, other))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=10 * tolerance, err_msg=name)
