"""Score rows with a model, and measure how good the scores are."""

import os
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools import Dataset, Split
from data_tools.storage.atomic import replacing
from robe_numba import metrics
from robe_numba.dlrm import DLRM
from robe_numba.dlrm.backends import to_numpy
from robe_numba.parallel.distributed_auc import distributed_ranking
from robe_numba.parallel.group import Alone, Group
from robe_numba.training.model_builder import Progress

SCORING_ROWS = 8192


def score(model: DLRM, split: Split, progress: Progress | None = None) -> np.ndarray:
    """Click probabilities of the rows of a split.

    Parameters
    ----------
    model : DLRM
        A trained model.
    split : Split
        Rows to score.
    progress : callable, optional
        Called with (rows done, all rows).

    Returns
    -------
    ndarray, (num_rows,) float32
        In the order of the split.
    """
    scores = np.empty(split.num_rows, dtype=np.float32)
    done = 0
    for batch in model.feed(split.batches(SCORING_ROWS)):
        stop = done + len(batch.dense)
        scores[done:stop] = to_numpy(model.predict(batch.dense, batch.indices, batch.multi_hot))
        done = stop
        if progress:
            progress(done, split.num_rows)
    return scores


def evaluate(
    model: DLRM, split: Split, progress: Progress | None = None, group: Group | None = None
) -> dict[str, float | int | None]:
    """Metrics of a model on the rows of a labelled split.

    Parameters
    ----------
    model : DLRM
        A trained model.
    split : Split
        Labelled rows.
    progress : callable, optional
        Called with (rows done, all rows), both of this process.
    group : Group, optional
        Processes that have the same model and divide the rows among them. AUC is exact: it is
        computed from all scores together. A score may differ in its last bit from that of a
        single process, as it may in another batch.

    Returns
    -------
    dict
        rows, click_rate, auc, log_loss, normalized_entropy and calibration; None for a metric that
        is not defined, as AUC for rows of one class.

    Raises
    ------
    FloatingPointError
        A score is not finite.
    """
    group = group or Alone()
    part = split.part(group.rank, group.size)
    labels, scores = part.labels(), score(model, part, progress)
    wrong = sum(group.all_gather(int(np.count_nonzero(~np.isfinite(scores)))))
    if wrong:
        raise FloatingPointError(f"{wrong} of {split.num_rows} scores are not finite")
    fit = reduce(metrics.Fit.beside, group.all_gather(metrics.Fit.of(labels, scores)))
    ranks = distributed_ranking(group, labels, scores)
    result: dict[str, float | int | None] = {"rows": fit.rows}
    for name in ("click_rate", "auc", "log_loss", "normalized_entropy", "calibration"):
        try:
            result[name] = getattr(ranks if name == "auc" else fit, name)
        except ValueError:  # too few rows, or of one class alone
            result[name] = None
    return result


def predict(
    model: DLRM,
    dataset: Dataset,
    output: str | os.PathLike[str],
    progress: Progress | None = None,
) -> int:
    """Score all rows of a dataset and write a Parquet file.

    Its columns are `probability` (float32) and, if the dataset has labels, `label` (float32), in
    the order of the rows. The file appears when it is complete.

    Parameters
    ----------
    model : DLRM
        A trained model.
    dataset : Dataset
        Rows to score.
    output : path
        The file.
    progress : callable, optional
        Called with (rows done, all rows).

    Returns
    -------
    int
        Rows written.
    """
    split = dataset.split("all")
    fields = [("probability", pa.float32())] + [("label", pa.float32())] * dataset.labelled
    done = 0
    with (
        replacing(output) as temporary,
        open(temporary, "wb") as file,  # Arrow takes no path that is not UTF-8
        pq.ParquetWriter(file, pa.schema(fields)) as writer,
    ):
        for batch in model.feed(split.batches(SCORING_ROWS)):
            scores = model.predict(batch.dense, batch.indices, batch.multi_hot)
            columns = [pa.array(to_numpy(scores))]
            if batch.labels is not None:
                columns.append(pa.array(to_numpy(batch.labels)))
            writer.write_table(pa.table(columns, schema=pa.schema(fields)))
            done += len(batch.dense)
            if progress:
                progress(done, split.num_rows)
    return done
