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
        help="Folders of runs, made by robe train. Each is served under the name of its folder, or "
        "under another as NAME=RUN.",
    ),
]


def serve(
    runs: Runs,
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with its own copy of the models.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads per process for scoring. Default: all cores, shared."),
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
            help="Milliseconds that a request waits at most for others that are arriving, while "
            "nothing is being scored.",
        ),
    ] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for a model; the next one gets 503.")
    ] = 1024,
    max_body: Annotated[
        str, typer.Option(help="Largest body, such as 8MiB, before and after decompression.")
    ] = "8MiB",
    timeout: Annotated[
        int,
        typer.Option(
            min=1,
            max=86_400,
            help="Seconds to send a request, to read from an answer, or to be idle; then the "
            "connection is closed.",
        ),
    ] = 30,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that requests need, except for health."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Report errors only.")] = False,
) -> None:
    """Serve models over HTTP, by the Open Inference Protocol v2 of KServe and Triton.

    The page at / shows the models and scores a row; /metrics is for Prometheus. Requests that are
    in flight together are scored together. A run that is replaced or trained further is reloaded
    without losing a request. Ctrl-C or SIGTERM finishes what is in flight, then exits.

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
    try:
        token = path.read_bytes().strip().decode("latin-1")
    except OSError as error:
        raise OSError(
            f"cannot read the token in {path}: {error.strerror}; give --token-file a file"
        ) from None
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
