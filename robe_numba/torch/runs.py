"""Runs of `robe train` as torch modules, and back. Needs the extra `cli`."""

import copy
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from robe_numba.dlrm import DLRMConfig
from robe_numba.spec import RobeSpec
from robe_numba.torch.array import RobeArray
from robe_numba.torch.tables import RobeTables

ARRAY = "embedding.array"


class CrossLayer(nn.Module):
    """A layer of the cross network of DCN v2: x_0 * (x @ v.T @ u.T + bias) + x.

    Parameters
    ----------
    width : int
        n, elements of a row.
    rank : int
        Of the weights v (rank, n) and u (n, rank).
    """

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.v = nn.Parameter(torch.empty(rank, width))
        self.u = nn.Parameter(torch.empty(width, rank))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.v, self.u):
            nn.init.normal_(weight, std=math.sqrt(2 / (rank + width)))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """The output (batch, n) for x_0 and x, both (batch, n)."""
        return first * nn.functional.linear(x @ self.v.T, self.u, self.bias) + x


class RobeDLRM(nn.Module):
    """The DLRM of `robe train` as a torch module with the same parameters.

    Parameters
    ----------
    config : DLRMConfig
        Widths of the MLPs and the interaction.
    tables : RobeTables
        `config.num_tables` tables with rows of `config.embedding_dim` elements.

    Raises
    ------
    ValueError
        `tables` has another number of tables or another width, or features are multi-hot.

    Notes
    -----
    Source: Naumov et al., Deep Learning Recommendation Model, 2019, arXiv 1906.00091.
    """

    def __init__(self, config: DLRMConfig, tables: RobeTables):
        super().__init__()
        shape, wanted = (
            (tables.num_tables, tables.embedding_dim),
            (config.num_tables, config.embedding_dim),
        )
        if shape != wanted:
            raise ValueError(
                f"tables has (num_tables, embedding_dim) = {shape}, but config has {wanted}; make "
                f"them equal"
            )
        if config.pooling:
            raise ValueError(
                f"config has {len(config.pooling)} multi-hot features, and RobeDLRM takes a single "
                f"id of each; use RobeEmbeddingBag in a model of your own"
            )
        self.config, self.tables = config, tables
        self.bottom = _mlp(config.bottom_widths)
        self.cross = nn.ModuleList(
            CrossLayer(config.interaction_width, rank) for rank in config.cross_ranks
        )
        self.top = _mlp(config.top_widths)[:-1]
        pairs = torch.tril_indices(config.num_tables + 1, config.num_tables + 1, offset=-1)
        self.register_buffer("_pairs", pairs, persistent=False)

    def forward(self, dense: Tensor, indices: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        dense : Tensor, (batch, num_dense)
            Dense features as in the dataset, transformed by `robe ingest`.
        indices : Tensor, (batch, num_tables)
            Raw ids.

        Returns
        -------
        Tensor, (batch,)
            Logits.
        """
        features = self.bottom(dense)
        vectors = torch.cat([features[:, None], self.tables(indices)], dim=1)
        if self.config.interaction != "dot":
            joined = crossed = vectors.flatten(1)
            for layer in self.cross:
                crossed = layer(joined, crossed)
            return self.top(crossed).squeeze(1)
        products = torch.bmm(vectors, vectors.mT)[:, self._pairs[0], self._pairs[1]]
        return self.top(torch.cat([features, products], dim=1)).squeeze(1)


def load_run(path: str | os.PathLike[str]) -> RobeDLRM:
    """Load the model of a run of `robe train`, to score or to train further.

    Parameters
    ----------
    path : path
        The folder of a run with the embedding `robe` or `hashed`.

    Returns
    -------
    RobeDLRM
        On the CPU, in training mode, with a dense gradient of the array.

    Raises
    ------
    ValueError, OSError
        The folder is not such a run, has multi-hot features, or its files are damaged or cannot be
        read.
    """
    from robe_numba.dlrm.embeddings.kinds import specs_from
    from robe_numba.training.run.folder import RunFolder
    from robe_numba.training.run.weights import read_weights

    folder = RunFolder(path)
    folder.check_single_ids("RobeDLRM")
    folder.load_model()  # checks everything
    embedding = folder.config["embedding"]
    if embedding["kind"] not in ("robe", "hashed"):
        raise ValueError(
            f"{path} has the embedding {embedding['kind']!r}; only runs with robe or hashed can be "
            f"loaded as RobeTables"
        )
    spec = specs_from(embedding["kind"], embedding["specs"])["array"]
    assert isinstance(spec, RobeSpec)
    arrays = read_weights(folder.model_path)
    array = RobeArray.from_tensor(torch.from_numpy(arrays[ARRAY]))
    model = RobeDLRM(
        DLRMConfig.from_dict(folder.config["model"]), RobeTables.from_spec(spec, array)
    )
    with torch.no_grad():
        for name, parameter in _dense_parameters(model).items():
            parameter.copy_(torch.from_numpy(arrays[name]))
    return model


def save_run(model: RobeDLRM, run: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Save a model from `load_run` as a run that `robe evaluate` and `robe predict` can read.

    Parameters
    ----------
    model : RobeDLRM
        From `load_run`, perhaps trained further. Other dtypes are converted to float32.
    run : path
        The run that it was loaded from. Its settings and facts of the data are copied.
    path : path
        The folder to make. It has no checkpoint and no metrics: `robe train --resume` would train
        from scratch there and replace the model.

    Raises
    ------
    ValueError, OSError
        The model has other shapes than that of the run, or the folder exists or cannot be written.
    """
    from robe_numba.training.run.config_file import CONFIG, write_config
    from robe_numba.training.run.folder import RunFolder

    source = RunFolder(run)
    scored = source.load_model()
    arrays: dict[str, np.ndarray] = {
        name: parameter.detach().cpu().float().numpy()
        for name, parameter in [
            *_dense_parameters(model).items(),
            (ARRAY, model.tables.array.weight),
        ]
    }
    scored.load(arrays)
    RunFolder.check_free(path, overwrite=False)
    RunFolder.check_links(path)
    config = copy.deepcopy(source.config)
    config["digests"] = {"models": []}
    Path(path).mkdir(parents=True, exist_ok=True)
    write_config(Path(path) / CONFIG, config)
    RunFolder(path).save_model(scored)


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers, each followed by a ReLU, with initial values as in Naumov et al. 2019."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = skip_init(nn.Linear, fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / (fan_in + fan_out)))
        nn.init.normal_(linear.bias, std=math.sqrt(1 / fan_out))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def _dense_parameters(model: RobeDLRM) -> dict[str, Any]:
    """Parameters of the layers by their names in a run, which does not number the ReLUs."""
    parts = {"bottom": model.bottom[::2], "top": model.top[::2], "cross": model.cross}
    return {
        f"{part}.{number}.{kind}": parameter
        for part, layers in parts.items()
        for number, layer in enumerate(layers)
        for kind, parameter in layer.named_parameters()
    }
