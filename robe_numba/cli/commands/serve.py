"""`robe serve`: score rows over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from robe_numba.cli import loading
from robe_numba.cli.arguments import Storage, parse_memory

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Folders of runs, made by robe train. A model has the name of its folder; NAME=RUN "
        "gives it another.",
    ),
]


def serve(
    runs: Runs,
    host: Annotated[str, typer.Option(help="Name or address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with the models in its memory.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of scoring per process. Default: all cores, shared."),
    ] = None,
    storage: Storage = "float32",
    max_batch: Annotated[
        int,
        typer.Option(min=1, help="Most rows scored together; 1 scores each request alone."),
    ] = 4096,
    max_delay_ms: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="Most milliseconds that a request waits, while nothing is being scored, for "
            "others that are arriving.",
        ),
    ] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; further ones are answered 503.")
    ] = 1024,
    max_body: Annotated[
        str, typer.Option(help="Largest request, as 8MiB; also once it is decompressed.")
    ] = "8MiB",
    timeout: Annotated[
        int,
        typer.Option(
            min=1,
            max=86_400,
            help="Seconds for a client to send a request, and of idle connections.",
        ),
    ] = 30,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that all requests but health need."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Report errors only.")] = False,
) -> None:
    """Serve models over HTTP, by the Open Inference Protocol v2 of KServe and Triton.

    / is a page to look at and to try rows; /metrics is for Prometheus. Requests that are in flight
    together are scored together. A run that is replaced or trained on is reloaded without a lost
    request. Ctrl-C or SIGTERM finishes what is in flight, then ends.

    Examples:

        robe serve run

        robe serve ads=runs/17 feed=runs/21 --port 9000 --workers 2

        robe serve run --host 0.0.0.0 --token-file token.txt
    """
    largest = parse_memory(max_body)
    token = None if token_file is None else _token(token_file)
    with loading():
        from robe_numba.serving.server import Limits, Service, named_runs
        from robe_numba.serving.server import serve as serve_runs

    service = Service(
        runs=named_runs(runs),
        limits=Limits(max_batch, max_delay_ms / 1000, queue, largest),
        token=token,
        timeout=timeout,
        threads=_threads(threads, workers),
        storage=storage,
        quiet=quiet,
    )
    if token is None and not _is_loopback(host):
        service.log(
            f"warning: anyone who reaches {host} can use this server; ask for a token with "
            f"--token-file",
            important=True,
        )
    serve_runs(service, host, port, workers)


def _token(path: Path) -> str:
    """The token in a file.

    Raises
    ------
    ValueError
        It is not one line of 16 or more printable ASCII characters.
    OSError
        The file cannot be read.
    """
    token = path.read_bytes().strip().decode("latin-1")
    if len(token) < 16 or not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(
            f"{path} has no token: it must be one line of 16 or more printable ASCII characters "
            f"without spaces, as `openssl rand -hex 32` makes"
        )
    return token


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _threads(threads: int | None, workers: int) -> int | None:
    """Threads of one process; the machine's cores are shared equally."""
    if threads is None and workers > 1:
        with loading():
            from robe_numba.kernels.cpu.launch import num_threads

        return max(1, num_threads() // workers)
    return threads
