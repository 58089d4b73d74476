"""The settings of a run and their defaults, of which the command line is made.

Apart from `TrainingConfig`, which checks them, so that `robe train --help` need not wait for Numba.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of one run; None takes the preset's or the documented default.

    Parameters
    ----------
    preset : gives widths, optimizer, batch size, learning rate and its schedule: "kaggle" (d = 16)
        and "mlperf" (d = 128) as published, "mlperf-32k" and "mlperf-55k" with MLPerf's large
        batches, or "default", the shape of "kaggle" with Adagrad.
    embedding : "robe", "full", "hashed" or "qr".
    compression : elements of the uncompressed tables per element kept, at least 1. Not for "full".
    num_parameters : elements to keep, instead of a compression.
    cardinalities : rows of each uncompressed table, which a compression is counted from; None
        counts the distinct ids of the training rows, and one for unknown ids per table.
    embedding_dim : d; None is the preset's.
    bottom, top : hidden widths of the MLPs; None is the preset's.
    block_size : Z, elements, of "robe"; None is d.
    hash, sign : of "robe" and "hashed", see `RobeSpec`. A sign of None is True for "robe" with the
        preset "default" (and not the hash "uma"), else False.
    alignment : of "robe", see `RobeSpec`.
    optimizer, lr : of the dense part and, unless they have their own, of the embedding.
    embedding_optimizer, embedding_lr : of the embedding.
    embedding_eps : addend of the embedding's Adagrad, see `make_embedding`.
    block_state : Adagrad keeps one sum for each block of Z elements of the embedding, not for each
        element.
    warmup_steps, decay_start, decay_steps : of the learning rates, see `Schedule`; each None is
        the preset's, and if neither says `decay_steps` the decay lasts until the end of the run.
    clip_norm : most that the gradient of a batch may measure, see `DLRM.train_step`; None is any.
    epochs : passes over the training rows, each in another order.
    batch_size : rows.
    evaluations : times per epoch that the validation rows are scored.
    evaluation_steps : score them after every so many steps instead, and at the end.
    target_auc : stop at the first evaluation that reaches it.
    patience : stop once so many evaluations have not bettered the best; None does not.
    scale : half-width of the initial values of the embedding; None is 0.001.
    fractions : shares of train, validation and test rows. Not for a split by "day".
    split_by : "order" (time order, as the rows stand), "random" (seeded), or "day" (the last day
        validates and tests, see `data_tools.loader.split.day_rows`).
    seed : of initial values, hashes, split and shuffles.
    device : "cpu" or "cuda", one GPU for each process.
    exchange : how processes that train together exchange the embedding's gradient: "gather",
        "reduce" or "auto", see `robe_numba.parallel.exchange`.
    ranks : how many these are; `train` fills it in.
    """

    preset: str = "default"
    embedding: str = "robe"
    compression: float | None = None
    num_parameters: int | None = None
    cardinalities: tuple[int, ...] | None = None
    embedding_dim: int | None = None
    bottom: tuple[int, ...] | None = None
    top: tuple[int, ...] | None = None
    block_size: int | None = None
    hash: str = "multiply-shift"
    sign: bool | None = None
    alignment: int = 1
    optimizer: str | None = None
    lr: float | None = None
    embedding_optimizer: str | None = None
    embedding_lr: float | None = None
    embedding_eps: float = 0.003
    block_state: bool = False
    warmup_steps: int | None = None
    decay_start: int | None = None
    decay_steps: int | None = None
    clip_norm: float | None = None
    epochs: int = 1
    batch_size: int | None = None
    evaluations: int = 4
    evaluation_steps: int | None = None
    target_auc: float | None = None
    patience: int | None = None
    scale: float | None = None
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_by: str = "order"
    seed: int = 0
    device: str = "cpu"
    exchange: str = "auto"
    ranks: int = 1
