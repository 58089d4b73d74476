"""Checks that settings which stop a run early can take effect."""

from contextlib import closing

from data_tools import Dataset, Split
from robe_numba.training.config import ResolvedConfig
from robe_numba.training.run.folder import RunFolder
from robe_numba.training.scoring import SCORING_ROWS

BY_AUC = ("patience", "target_auc")  # settings that depend on the validation AUC


def check_stopping(dataset: Dataset, config: ResolvedConfig, resumed: RunFolder | None) -> None:
    """Require that the validation AUC is defined, if a setting stops a run by it.

    Reads rows until it has seen one of each class.

    Parameters
    ----------
    dataset : Dataset
        Labelled.
    config : ResolvedConfig
        Settings of the run.
    resumed : RunFolder, optional
        The run to resume, whose own settings are not checked again.

    Raises
    ------
    ValueError
        The validation rows are of one class or there are none, so the setting could never act.
    """
    before = {} if resumed is None else resumed.config["training"]
    asked = [n for n in BY_AUC if getattr(config, n) is not None and before.get(n) is None]
    if not asked:
        return
    rows = dataset.split("validation", config.fractions, config.split_by, config.seed)
    if not _has_both_classes(rows):
        found = f"all {rows.num_rows:,} are of one class" if rows.num_rows else "there are none"
        raise ValueError(
            f"{' and '.join(asked)} cannot act: AUC needs validation rows of both classes, but "
            f"{found}; leave {'it' if len(asked) == 1 else 'them'} out, or choose other fractions "
            f"or another split_by"
        )


def _has_both_classes(rows: Split) -> bool:
    seen: set[float] = set()
    with closing(rows.batches(SCORING_ROWS)) as batches:
        for batch in batches:
            if batch.labels is not None:
                seen |= {float(batch.labels.min()), float(batch.labels.max())}
            if len(seen) > 1:
                return True
    return False
