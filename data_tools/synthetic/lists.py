"""Lists of ids in a generated log, whose effects are pooled by their mean."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np

from data_tools.batch import Lists
from data_tools.synthetic import list_kernels
from data_tools.synthetic.parameters import PILOT_ROWS, PILOT_START, inverse_law, stream_key
from data_tools.synthetic.presets import Categorical

CARDINALITY = 10_000  # ids of each feature, before the generator's scale
LAW = Categorical(CARDINALITY, 0.0, 0, 0, 0.0105, 1.4261, 122.9, 0, 1.0)  # of Kaggle's C7
STRENGTH = 1.0  # standard deviation over rows of what all lists together add to the logit
SAMPLES = 256  # lists over which the probability that first ids tell is averaged
MOST_FEATURES, MOST_IDS = 64, 10_000


class Drawn(NamedTuple):
    """Lists of some rows.

    Attributes
    ----------
    lists : tuple of Lists
        Of each of F features; ids uint32, offsets int64.
    sums : ndarray, (rows, F) float64
        Sums of the effects of a list's ids.
    own : ndarray, (rows, F) float64
        Effect of each list's first id; 0 for an empty list.
    lengths : ndarray, (rows, F) int64
        Ids of each list.
    """

    lists: tuple[Lists, ...]
    sums: np.ndarray
    own: np.ndarray
    lengths: np.ndarray

    def effects(self) -> np.ndarray:
        """Mean effect of each list's ids, (rows, F); 0 for an empty list."""
        return self.sums / np.maximum(self.lengths, 1)


class PlantedLists:
    """Features of lists: 0 to twice the mean length of ids, all lengths equally likely.

    Parameters
    ----------
    mean_lengths : sequence of int
        Of each feature, at least 1.
    cardinality : int
        Ids of each feature.
    preset : str
    seed : int

    Attributes
    ----------
    names : tuple of str
        Columns L1, L2, ...
    scale : ndarray, (F,) float64
        What a feature's mean effect is multiplied by in the logit.

    Raises
    ------
    ValueError
        A length is not from 1 to 10,000, or there are more than 64 features.
    """

    def __init__(
        self, mean_lengths: Sequence[SupportsIndex], cardinality: int, preset: str, seed: int
    ) -> None:
        means = [operator.index(mean) for mean in mean_lengths]
        for mean in means:
            if not 1 <= mean <= MOST_IDS:
                raise ValueError(f"a mean length of lists is {mean}; use 1 to {MOST_IDS:,}")
        if len(means) > MOST_FEATURES:
            raise ValueError(
                f"there are {len(means)} features of lists; use {MOST_FEATURES} or fewer"
            )
        self.names = tuple(f"L{number}" for number in range(1, len(means) + 1))
        _, span, inverse_power = inverse_law(LAW, cardinality)
        self._params = list_kernels.ListParams(
            row_key=stream_key("row", preset, seed),
            id_key=stream_key("id", preset, seed),
            longest=np.array([2 * mean for mean in means], np.int64),
            cardinality=cardinality,
            head=LAW.head,
            shift=LAW.shift,
            span=span,
            inverse_power=inverse_power,
        )
        pilot = self.draw(PILOT_START, PILOT_START + PILOT_ROWS)
        self.scale = STRENGTH / math.sqrt(len(means)) / pilot.effects().std(0)
        self._rest, self._share = self._samples(pilot)

    def _samples(self, pilot: Drawn) -> tuple[np.ndarray, np.ndarray]:
        """Effects of what follows the first id in lists that are not empty, and their shares."""
        chosen = [np.flatnonzero(lengths)[:SAMPLES] for lengths in pilot.lengths.T]
        rest, lengths = (
            np.stack([array[rows, f] for f, rows in enumerate(chosen)], axis=1)
            for array in (pilot.sums - pilot.own, pilot.lengths)
        )
        return rest, self.scale / lengths

    def draw(self, start: int, stop: int) -> Drawn:
        """The lists of rows [start, stop)."""
        shape = len(self.names), stop - start
        lengths = np.empty(shape, np.int64)
        sums, own = np.empty(shape), np.empty(shape)
        lists = []
        for f in range(len(self.names)):
            list_kernels.lengths(start, f, self._params, lengths[f])
            offsets = np.concatenate([[0], np.cumsum(lengths[f])])
            ids = np.empty(int(offsets[-1]), np.uint32)
            list_kernels.draw(start, f, self._params, offsets, ids, sums[f], own[f])
            lists.append(Lists(ids, offsets))
        return Drawn(tuple(lists), sums.T, own.T, lengths.T)

    def logits(self, start: int, stop: int) -> np.ndarray:
        """What the lists add to the logits of rows [start, stop), float64."""
        return self.draw(start, stop).effects() @ self.scale

    def first_id_probabilities(self, start: int, stop: int, logits: np.ndarray) -> np.ndarray:
        """Probability of a click in rows [start, stop), given only the first ids of their lists.

        Parameters
        ----------
        logits : ndarray, (rows,) float64
            Without lists.

        Returns
        -------
        ndarray, (rows,) float32
            The mean over `SAMPLES` lists of other rows, each in place of all but the first id.
        """
        drawn, out = self.draw(start, stop), np.empty(stop - start, np.float32)
        own, filled = np.ascontiguousarray(drawn.own), np.ascontiguousarray(drawn.lengths > 0)
        list_kernels.marginal(logits, own, filled, self._rest, self._share, out)
        return out
