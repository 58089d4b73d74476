"""The HTTP server of `robe serve`; needs the `serve` extra.

protocol.py     requests and answers of the Open Inference Protocol v2
tensors.py      the inputs of a model, and their arrays in a request
bodies.py       reading and decompressing bodies within bounds
batching.py     micro-batches
models.py       runs that are replaced while they serve
metrics.py      what is counted, over all processes
app.py          the ASGI application: authorization, scores
facts.py        all its other answers
connections.py  slow clients, long headers
running.py      one process
workers.py      several
page.html       the page at /
"""

try:
    import httptools  # noqa: F401  (only whether they are missing matters here)
    import uvicorn  # noqa: F401
    import uvloop  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the server needs uvicorn, httptools and uvloop ({error}): "
        f"pip install 'robe-numba[serve]'",
        name=error.name,
    ) from error

from robe_numba.serving.server.app import Limits
from robe_numba.serving.server.models import named_runs
from robe_numba.serving.server.running import Service
from robe_numba.serving.server.workers import serve

__all__ = ["Limits", "Service", "named_runs", "serve"]
