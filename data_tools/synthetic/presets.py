"""The laws of the columns of Criteo's Kaggle and Terabyte logs, one row per column.

They were measured on 10,000 consecutive lines of each log (of Terabyte, of day 0) and fitted by
`fit_dense` and `fit_column` of fitting.py, which can fit another log as well. The cardinalities are
of the whole logs. docs/generator.md describes how the planted model was calibrated.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Dense(NamedTuple):
    """Law of one dense column."""

    empty: float  # share of lines without a number
    stream: int  # columns of one stream are empty together (the rarer within the more common)
    minus_one: float  # share of -1 among the numbers
    below: float  # share of -2 among the numbers
    least: int  # least number that is not negative
    mu: float  # other numbers are floor(exp(mu + sigma z)), z nearly normal
    sigma: float
    mean_log: float  # mean of log(1 + max(x, 0)) over the numbers
    std_log: float  # its standard deviation
    effect: float  # log-odds of a click per std_log, in logistic regression on this column alone
    empty_effect: float  # log-odds of a click of the lines without a number, less the others'
    factor: int  # hidden normal number that this column shares with others of the line
    loading: float  # correlation of z with it: near the real correlations between columns


class Categorical(NamedTuple):
    """Law of one categorical column; see `RankLaw` of fitting.py."""

    cardinality: int  # different ids in the whole log
    empty: float  # share of lines without an id
    stream: int
    chain: int  # number (from 1) of the finest column of its chain: its id decides this one's
    head: float  # share of the commonest id among the ids
    exponent: float
    shift: float
    common: int  # ids that make up nearly all lines; 0 is all of them
    effect: float  # standard deviation between ids of the log-odds of a click


class LogPreset(NamedTuple):
    """One log: its columns, its click rate, and the strengths of the planted model."""

    name: str
    click_rate: float
    dense: tuple[Dense, ...]
    categorical: tuple[Categorical, ...]
    # Standard deviations over lines of the three components of the logit.
    dense_std: float
    linear_std: float
    pair_std: float


_KAGGLE_DENSE = (
    Dense(0.4481, 0, 0.0000, 0.0000, 0, 0.119, 1.59, 0.796, 0.976, 0.37, -0.68, 0, 0.90),
    Dense(0.0000, 1, 0.0969, 0.0006, 0, 1.91, 2.693, 2.125, 2.133, 0.11, 0.00, 0, 0.00),
    Dense(0.2037, 2, 0.0000, 0.0000, 0, 2.13, 1.419, 2.249, 1.278, -0.20, 0.29, 1, 0.50),
    Dense(0.1978, 3, 0.0000, 0.0000, 0, 1.58, 1.091, 1.728, 0.961, -0.13, 0.16, 1, 0.90),
    Dense(0.0494, 0, 0.0000, 0.0000, 0, 7.22, 2.93, 7.237, 2.897, -0.49, -1.31, 0, -0.60),
    Dense(0.2511, 0, 0.0000, 0.0000, 0, 3.52, 1.906, 3.584, 1.807, -0.63, -1.09, 2, 0.50),
    Dense(0.0492, 4, 0.0000, 0.0000, 0, 1.18, 1.76, 1.540, 1.358, 0.47, -0.85, 2, 0.90),
    Dense(0.0010, 0, 0.0000, 0.0000, 0, 1.92, 1.321, 2.056, 1.179, -0.16, 0.00, 1, 0.70),
    Dense(0.0492, 4, 0.0000, 0.0000, 0, 3.56, 1.769, 3.609, 1.691, -0.06, -0.85, 2, 0.55),
    Dense(0.4481, 0, 0.0000, 0.0000, 0, -0.002, 0.4657, 0.376, 0.394, 0.37, -0.68, 0, 0.90),
    Dense(0.0492, 4, 0.0000, 0.0000, 0, 0.509, 0.9882, 0.852, 0.739, 0.45, -0.85, 2, 0.95),
    Dense(0.7735, 0, 0.0000, 0.0000, 0, -1.04, 1.565, 0.299, 0.606, 0.24, -0.18, 0, 0.20),
    Dense(0.1978, 3, 0.0000, 0.0000, 0, 1.74, 1.194, 1.880, 1.059, -0.45, 0.16, 1, 0.93),
)
_KAGGLE_CATEGORICAL = (
    Categorical(1460, 0.0000, 0, 1, 0.5005, 2.0094, 2.217, 0, 0.04),
    Categorical(583, 0.0000, 0, 15, 0.1235, 4.7152, 153.6, 0, 0.53),
    Categorical(10131227, 0.0357, 5, 3, 0.0487, 1.0334, 2.217, 0, 0.71),
    Categorical(2202608, 0.0357, 5, 3, 0.0757, 1.1579, 8.455, 0, 0.75),
    Categorical(305, 0.0000, 0, 5, 0.6656, 2.6975, 2.217, 0, 0.11),
    Categorical(24, 0.1332, 6, 6, 0.5299, 1.5226, 1.0, 7, 0.14),
    Categorical(12517, 0.0000, 0, 7, 0.0105, 1.4261, 122.9, 0, 0.60),
    Categorical(633, 0.0000, 0, 8, 0.5888, 2.2631, 1.774, 0, 0.07),
    Categorical(3, 0.0000, 0, 7, 0.8871, 9.0856, 1.0, 0, 0.57),
    Categorical(93145, 0.0000, 0, 10, 0.2757, 1.3737, 78.68, 0, 0.59),
    Categorical(5683, 0.0000, 0, 7, 0.0203, 1.9106, 192.0, 0, 0.56),
    Categorical(8351593, 0.0357, 5, 3, 0.0487, 1.0511, 2.772, 0, 0.69),
    Categorical(3194, 0.0000, 0, 7, 0.0221, 1.8911, 153.6, 0, 0.54),
    Categorical(27, 0.0000, 0, 15, 0.3629, 7.3325, 10.57, 0, 0.33),
    Categorical(14992, 0.0000, 0, 15, 0.0195, 1.8556, 122.9, 0, 0.69),
    Categorical(5461306, 0.0357, 5, 3, 0.0487, 1.0959, 4.33, 0, 0.64),
    Categorical(10, 0.0000, 0, 17, 0.4304, 0.6348, 1.0, 9, 0.47),
    Categorical(5652, 0.0000, 0, 15, 0.0510, 2.2732, 98.34, 0, 0.62),
    Categorical(2173, 0.4496, 7, 19, 0.6014, 1.3698, 8.455, 0, 0.27),
    Categorical(4, 0.4496, 7, 20, 0.3616, 0.0326, 1.0, 3, 0.12),
    Categorical(7046547, 0.0357, 5, 3, 0.0487, 1.0710, 3.464, 0, 0.67),
    Categorical(18, 0.8182, 8, 22, 0.5259, 14.7868, 8.455, 0, 0.11),
    Categorical(15, 0.0000, 0, 23, 0.4515, 1.3433, 1.0, 12, 0.34),
    Categorical(286181, 0.0357, 5, 3, 0.0783, 1.2600, 5.412, 0, 0.53),
    Categorical(105, 0.4496, 7, 25, 0.3283, 13.2390, 50.36, 0, 0.25),
    Categorical(142572, 0.4496, 7, 26, 0.0825, 1.2567, 13.21, 0, 0.49),
)

_TERABYTE_DENSE = (
    Dense(0.2385, 1, 0.0000, 0.0000, 1, 2.01, 1.498, 2.219, 1.237, -0.06, 0.08, 0, 0.60),
    Dense(0.1017, 2, 0.0000, 0.0000, 1, 5.12, 1.596, 5.134, 1.580, -0.15, 0.34, 1, 0.40),
    Dense(0.2538, 0, 0.0000, 0.0000, 0, 1.38, 1.089, 1.553, 0.938, -0.04, -0.05, 0, 0.90),
    Dense(0.4927, 2, 0.0000, 0.0000, 0, 3.52, 1.812, 3.577, 1.726, -0.68, -0.92, 1, 0.40),
    Dense(0.4652, 2, 0.0000, 0.0000, 1, 1.81, 1.549, 2.078, 1.226, 0.33, -0.72, 1, 0.96),
    Dense(0.0916, 0, 0.0000, 0.0000, 0, -1.82, 2.118, 0.272, 0.668, 0.31, -0.11, 2, 0.90),
    Dense(0.0315, 0, 0.0000, 0.0000, 0, -3.14, 1.783, 0.040, 0.220, 0.07, -0.05, 2, 0.30),
    Dense(0.0000, 0, 0.0599, 0.0000, 0, 2.15, 2.566, 2.355, 2.117, 0.10, 0.00, 0, 0.10),
    Dense(0.0000, 0, 0.0000, 0.0000, 0, 1.49, 1.418, 1.704, 1.193, 0.00, 0.00, 0, 0.40),
    Dense(0.0916, 0, 0.0000, 0.0000, 0, -0.625, 0.6652, 0.132, 0.296, 0.36, -0.11, 2, 0.90),
    Dense(0.4652, 2, 0.0000, 0.0000, 1, 0.789, 1.145, 1.262, 0.711, 0.30, -0.72, 1, 0.96),
    Dense(0.0155, 3, 0.0000, 0.0000, 0, 7.67, 2.722, 7.677, 2.707, -0.44, -1.45, 2, -0.45),
    Dense(0.2538, 0, 0.0000, 0.0000, 0, 1.64, 1.076, 1.783, 0.956, -0.44, -0.05, 0, 0.95),
)
_TERABYTE_CATEGORICAL = (
    Categorical(227605432, 0.0258, 4, 20, 0.2680, 1.0918, 0.05, 0, 0.74),
    Categorical(39060, 0.0000, 0, 2, 0.0966, 1.5031, 20.64, 0, 0.93),
    Categorical(17295, 0.0000, 0, 3, 0.0389, 1.4396, 62.95, 0, 0.49),
    Categorical(7424, 0.0000, 0, 4, 0.2903, 1.4850, 2.217, 0, 0.00),
    Categorical(20265, 0.0000, 0, 5, 0.2033, 1.2639, 1.419, 0, 0.00),
    Categorical(3, 0.0000, 0, 3, 0.8782, 10.2156, 1.0, 0, 0.47),
    Categorical(7122, 0.0000, 0, 3, 0.0446, 1.6067, 62.95, 0, 0.56),
    Categorical(1543, 0.0000, 0, 2, 0.1011, 2.4116, 32.24, 0, 0.53),
    Categorical(63, 0.0000, 0, 9, 0.5238, 13.1547, 20.64, 0, 0.11),
    Categorical(130229467, 0.0258, 4, 20, 0.2680, 1.1184, 0.122, 0, 0.73),
    Categorical(3067956, 0.0258, 4, 20, 0.2681, 1.2412, 0.3723, 0, 0.69),
    Categorical(405282, 0.0000, 0, 12, 0.2670, 1.4845, 122.9, 0, 0.47),
    Categorical(10, 0.0000, 0, 13, 0.3286, 0.4309, 1.0, 9, 0.47),
    Categorical(2209, 0.4667, 5, 23, 0.7472, 1.3567, 4.33, 0, 0.33),
    Categorical(11938, 0.0000, 0, 2, 0.0966, 1.7784, 25.79, 0, 0.75),
    Categorical(155, 0.4667, 5, 23, 0.7536, 5.4537, 10.57, 0, 0.37),
    Categorical(4, 0.4667, 5, 23, 0.7379, 0.6304, 1.0, 3, 0.30),
    Categorical(976, 0.0000, 0, 18, 0.5080, 1.9104, 1.419, 0, 0.28),
    Categorical(14, 0.0000, 0, 19, 0.5338, 2.0569, 1.0, 12, 0.26),
    Categorical(292775614, 0.0258, 4, 20, 0.2680, 1.0901, 0.05, 0, 0.74),
    Categorical(40790948, 0.0258, 4, 20, 0.2680, 1.1926, 0.5816, 0, 0.77),
    Categorical(187188510, 0.0258, 4, 20, 0.2680, 1.0948, 0.05, 0, 0.73),
    Categorical(590152, 0.4667, 5, 23, 0.4894, 1.1521, 2.772, 0, 0.62),
    Categorical(12973, 0.0000, 0, 3, 0.0392, 1.5902, 62.95, 0, 0.30),
    Categorical(108, 0.0000, 0, 25, 0.5242, 3.6205, 2.217, 0, 0.29),
    Categorical(36, 0.0000, 0, 2, 0.3659, 13.5556, 25.79, 0, 0.49),
)

PRESETS: Mapping[str, LogPreset] = MappingProxyType(
    {
        "kaggle": LogPreset(
            "kaggle",
            0.2182,
            _KAGGLE_DENSE,
            _KAGGLE_CATEGORICAL,
            dense_std=1.12,
            linear_std=1.0,
            pair_std=0.3,
        ),
        "terabyte": LogPreset(
            "terabyte",
            0.0265,
            _TERABYTE_DENSE,
            _TERABYTE_CATEGORICAL,
            dense_std=0.88,
            linear_std=0.93,
            pair_std=0.3,
        ),
    }
)

MLPERF_MAX_IND_RANGE = 40_000_000  # ids of Terabyte are taken modulo this in MLPerf's DLRM
LOGS = (*PRESETS, "mlperf")


def cardinalities(name: str) -> tuple[int, ...]:
    """Different ids of each categorical column in a whole published log.

    Parameters
    ----------
    name : "kaggle", "terabyte", or "mlperf": Terabyte with ids modulo 40,000,000.

    Raises
    ------
    ValueError
        No such log.
    """
    if name not in LOGS:
        raise ValueError(f"log is {name!r}; use one of {', '.join(LOGS)}")
    columns = PRESETS["terabyte" if name == "mlperf" else name].categorical
    sizes = tuple(column.cardinality for column in columns)
    return tuple(min(size, MLPERF_MAX_IND_RANGE) for size in sizes) if name == "mlperf" else sizes
