"""Constants of the generator's kernels, from a preset and from measurements of pilot rows."""

import hashlib
import math

import numpy as np
import numpy.typing as npt

from data_tools.synthetic import kernels
from data_tools.synthetic.presets import Categorical, LogPreset

PILOT_ROWS = 65_536
PILOT_START = 2**62  # far from the rows that anybody writes


def params(
    preset: LogPreset,
    cardinalities: tuple[int, ...],
    seed: int,
    lists: npt.NDArray[np.float64] | float = 0.0,
) -> kernels.Params:
    """Constants of the kernels.

    The components of the logit are scaled to their strengths, and the bias is set by the click
    rate. Both are measured on pilot rows, so every seed and scale has the same strengths and rate.

    Parameters
    ----------
    lists : ndarray, (PILOT_ROWS,) float64, or 0
        What lists add to the logits of the pilot rows.
    """
    neutral = _neutral(preset, cardinalities, seed)
    parts = np.empty((PILOT_ROWS, 3))
    kernels.components(PILOT_START, neutral, parts)
    scale = np.array([preset.dense_std, preset.linear_std, preset.pair_std]) / parts.std(0)
    logits = parts @ scale + lists
    low, high = -logits.max() - 50.0, -logits.min() + 50.0
    for _ in range(60):
        bias = (low + high) / 2
        if (1.0 / (1.0 + np.exp(-(logits + bias)))).mean() < preset.click_rate:
            low = bias
        else:
            high = bias
    return neutral._replace(logit_scale=scale, bias=float(bias))


def _neutral(preset: LogPreset, cardinalities: tuple[int, ...], seed: int) -> kernels.Params:
    """Constants of the kernels; the scales and the bias of the logit are still neutral."""
    dense, categorical = preset.dense, preset.categorical
    laws = [inverse_law(*each) for each in zip(categorical, cardinalities, strict=True)]

    def floats(values: list[float]) -> npt.NDArray[np.float64]:
        return np.array(values, np.float64)

    def ints(values: list[int]) -> npt.NDArray[np.int64]:
        return np.array(values, np.int64)

    return kernels.Params(
        row_key=stream_key("row", preset.name, seed),
        id_key=stream_key("id", preset.name, seed),
        dense_empty=floats([c.empty for c in dense]),
        dense_stream=ints([c.stream for c in dense]),
        factor=ints([c.factor for c in dense]),
        loading=floats([c.loading for c in dense]),
        mu=floats([c.mu for c in dense]),
        sigma=floats([c.sigma for c in dense]),
        least=floats([c.least for c in dense]),
        minus_one=floats([c.minus_one for c in dense]),
        below=floats([c.below for c in dense]),
        mean_log=floats([c.mean_log for c in dense]),
        std_log=floats([c.std_log for c in dense]),
        effect=floats([c.effect for c in dense]),
        empty_effect=floats([c.empty_effect for c in dense]),
        cat_empty=floats([c.empty for c in categorical]),
        cat_stream=ints([c.stream for c in categorical]),
        chain=ints([c.chain for c in categorical]),
        cat_effect=floats([c.effect for c in categorical]),
        cardinality=ints(list(cardinalities)),
        common=ints([law[0] for law in laws]),
        head=floats([c.head for c in categorical]),
        shift=floats([c.shift for c in categorical]),
        span=floats([law[1] for law in laws]),
        inverse_power=floats([law[2] for law in laws]),
        logit_scale=np.ones(3),
        bias=0.0,
    )


def inverse_law(column: Categorical, cardinality: int) -> tuple[int, float, float]:
    """Number of common ids, and span and power of the inverse of the rank distribution."""
    common = min(column.common or cardinality, cardinality)
    power = 1.0 - column.exponent
    span = math.expm1(power * math.log1p((common - 1) / column.shift))
    return common, span, 1.0 / power


def stream_key(purpose: str, preset: str, seed: int) -> np.uint64:
    """Where the stream of a purpose's hash words begins."""
    digest = hashlib.sha256(f"{purpose} {preset} {seed}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))
