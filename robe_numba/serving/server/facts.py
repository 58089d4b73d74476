"""What a server says of itself and of its models: everything but scores."""

from collections.abc import Mapping
from typing import Any

import msgspec

import robe_numba
from robe_numba.serving.server import page
from robe_numba.serving.server.metrics import Counters, exposition
from robe_numba.serving.server.models import Model
from robe_numba.serving.server.protocol import PROBABILITY
from robe_numba.serving.server.refusals import RefusedError
from robe_numba.serving.server.tensors import inputs_of

Headers = tuple[tuple[bytes, bytes], ...]
JSON = b"application/json"
TEXT = b"text/plain; version=1.0.0; charset=utf-8"


def headers_of(kind: bytes, body: bytes) -> Headers:
    """The headers of an answer of this type."""
    return (b"content-type", kind), (b"content-length", b"%d" % len(body))


def about_model(model: Model, path: str, draining: bool) -> tuple[bytes, Headers]:
    """The answer to `/v2/models/NAME[/versions/VERSION][/ready]`.

    Raises
    ------
    RefusedError
        404: there is no such version or path; 503: the server is shutting down.
    """
    match below_version(model, path):
        case []:
            fact = _metadata(model)
        case ["ready"]:
            if draining:
                raise ending()
            fact = {"name": model.name, "ready": True}
        case _:
            raise _no_path(path)
    body = msgspec.json.encode(fact)
    return body, headers_of(JSON, body)


def about_server(
    models: Mapping[str, Model], counters: Counters, path: str, draining: bool
) -> tuple[bytes, Headers]:
    """The answer to a path that is not below a model that there is.

    Raises
    ------
    RefusedError
        404: there is no such model or path; 503: the server is shutting down.
    """
    match path.split("/")[1:]:
        case [""]:
            return page.HTML, page.HEADERS
        case ["metrics"]:
            scorers = {name: model.scorer for name, model in models.items()}
            loaded = {name: (s.version, s.num_bytes) for name, s in scorers.items()}
            kind, body = TEXT, exposition(counters, loaded)
        case ["status"]:
            status = [_status(model, counters) for model in models.values()]
            kind, body = JSON, msgspec.json.encode(status)
        case ["v2", *rest] if (fact := _server_fact(rest, draining)) is not None:
            kind, body = JSON, msgspec.json.encode(fact)
        case ["v2", "models", name, *_]:
            there = ", ".join(models)
            raise RefusedError(404, f"there is no model {name!r}; the models are {there}")
        case _:
            raise _no_path(path)
    return body, headers_of(kind, body)


def _server_fact(rest: list[str], draining: bool) -> dict[str, Any] | None:
    """What the protocol says of the server; None where it says nothing."""
    match rest:
        case []:
            version, extensions = robe_numba.__version__, ["binary_tensor_data"]
            return {"name": "robe_numba", "version": version, "extensions": extensions}
        case ["health", "live"]:
            return {"live": True}
        case ["health", "ready"]:
            if draining:
                raise ending()
            return {"ready": True}
    return None


def _status(model: Model, counters: Counters) -> dict[str, Any]:
    """What the page shows of a model."""
    scorer, lists = model.scorer, {}
    if scorer.num_multi_hot:
        lists = {"multi_hot": scorer.multi_hot_names, "weights": scorer.weight_names}
    return {
        "name": model.name,
        "version": scorer.version,
        "bytes": scorer.num_bytes,
        "dense": scorer.dense_names,
        "ids": scorer.id_names,
        **lists,
        **counters.total(model.name),
    }


def below_version(model: Model, path: str) -> list[str]:
    """The parts of a path after the model, and after its version if one is given.

    Raises
    ------
    RefusedError
        Status 404: the version is not the one that is served.
    """
    match path.split("/")[4:]:
        case ["versions", version, *rest]:
            current = model.scorer.version
            if version != current:
                raise RefusedError(
                    404, f"{model.name} has no version {version!r}; it has {current}"
                )
            return rest
        case rest:
            return rest


def _metadata(model: Model) -> dict[str, Any]:
    scorer = model.scorer
    columns = scorer.num_dense, scorer.num_tables, scorer.num_multi_hot
    inputs = inputs_of(*columns, bool(scorer.weight_names))
    return {
        "name": model.name,
        "versions": [scorer.version],
        "platform": "robe_numba",
        "inputs": [
            {"name": each.name, "datatype": next(iter(each.types)), "shape": [-1, *each.columns]}
            for each in inputs.values()
        ],
        "outputs": [{"name": PROBABILITY, "datatype": "FP32", "shape": [-1]}],
    }


def _no_path(path: str) -> RefusedError:
    return RefusedError(404, f"there is no path {path!r}; the protocol begins at /v2")


def ending() -> RefusedError:
    """The refusal of new work by a server that is shutting down: status 503."""
    return RefusedError(503, "the server is shutting down", (b"retry-after", b"1"))
