"""Lists that are made of single ids, as the loader makes them (`--multi-hot-sizes`)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_tools.batch import Rows
from data_tools.loader.expansion import Expansion
from data_tools.rows import batch_of
from robe_numba.dlrm.bags import Bags, MultiHot, bags_of
from robe_numba.serving.lists import MOST_IDS, MOST_ROWS, check_no_lists
from robe_numba.spec import RobeSpec
from robe_numba.training.run.folder import RunFolder


class MadeLists:
    """The single ids that such a run takes, in the columns of its log.

    Parameters
    ----------
    folder : RunFolder
        A run whose dataset has `multi_hot_sizes`.
    limited : RobeSpec, optional
        The spec of the run's embedding if it takes only ids below a limit.

    Attributes
    ----------
    id_names : list of str
        The columns.
    names, weight_names : list
        Of lists that callers give: none.

    Raises
    ------
    ValueError
        How many ids were known is not recorded, other lists are stored in the dataset, or drawn
        ids may be outside of their tables.
    """

    def __init__(self, folder: RunFolder, limited: RobeSpec | None):
        facts: dict[str, Any] = folder.config["dataset"]
        sizes, known = tuple(facts["multi_hot_sizes"]), tuple(facts.get("known_ids") or ())
        made = Expansion(sizes, known, facts["multi_hot_seed"])
        names, why = [*facts["categorical"], *facts["multi_hot"]], None
        if not known:
            why = "does not record how many ids its dataset knew"
        elif len(names) > len(sizes):
            why = "has lists besides those that were made of single ids"
        elif limited is not None and set(limited.num_embeddings or ()) != {2**32}:
            why = "may draw ids outside of its tables"
        if why is not None:
            raise ValueError(f"{folder.path} {why}; score datasets with robe predict")
        self.id_names = [name for _, name in sorted(zip(made.columns, names, strict=True))]
        self.names: list[str] = []
        self.weight_names: list[str | None] = []
        self._made, self._pooling = made, tuple(folder.config["model"]["pooling"])
        self._rows = min(MOST_ROWS, max(MOST_IDS // int(sum(made.ids_per_row)), 1))

    def checked(self, rows: int, multi_hot: MultiHot | None) -> None:
        """Refuse lists, which are made here."""
        check_no_lists(multi_hot)

    def bags(self, ids: np.ndarray, lists: None) -> Iterator[tuple[int, int, Bags]]:
        """Bags of all features of as many rows as may be scored at once, as `ListInput.bags`.

        Parameters
        ----------
        ids : ndarray, (rows, len(id_names)) uint64
            Numbers of known ids.
        lists : None
            From `checked`.
        """
        for first in range(0, len(ids), self._rows):
            own = ids[first : first + self._rows]
            rows = self._made.rows(Rows(None, own, own))
            made = batch_of(rows).multi_hot
            assert made is not None  # a list is made of some column
            yield first, first + len(own), bags_of(np, rows.indices, made, self._pooling)
