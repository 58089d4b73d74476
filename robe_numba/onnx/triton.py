"""The configuration of a model in a repository of NVIDIA's Triton Inference Server."""

import re
from pathlib import Path

CONFIG, VERSION, MODEL = "config.pbtxt", "1", "model.onnx"
MOST_ROWS = 4096  # of a batch
DELAY = 1000  # microseconds that a request waits for others
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

# Dimensions are without that of the batch. Triton has no tensor (batch,), so `probability` is
# (batch, 1) to its clients.
_TEXT = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {rows}
input [
  {{
    name: "dense"
    data_type: TYPE_FP32
    dims: [ {num_dense} ]
  }},
  {{
    name: "ids"
    data_type: TYPE_INT64
    dims: [ {num_tables} ]
  }}
]
output [
  {{
    name: "probability"
    data_type: TYPE_FP32
    dims: [ 1 ]
    reshape: {{ shape: [ ] }}
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {delay}
}}
"""


def config_text(name: str, num_dense: int, num_tables: int) -> str:
    """The text of config.pbtxt.

    Raises
    ------
    ValueError
        There are no dense features.
    """
    if num_dense == 0:
        raise ValueError(
            "the model has no dense features, and Triton takes no tensor without columns; export "
            "it with --output and serve it by robe serve or ONNX Runtime"
        )
    columns = {"num_dense": num_dense, "num_tables": num_tables}
    return _TEXT.format(name=name, rows=MOST_ROWS, delay=DELAY, **columns)


def check_name(name: str) -> str:
    """Require a name that is safe as a folder and in the configuration; returned.

    Raises
    ------
    ValueError
        It has other characters.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the model's name is {name!r}; it must be letters, digits, '_', '-' and '.', and not "
            f"begin with '.': give another by --name"
        )
    return name


def check_versions(place: Path) -> None:
    """Require that a model's folder has no version that Triton would serve in place of ours.

    Raises
    ------
    FileExistsError
        It has a later one: Triton serves the latest alone.
    """
    for folder in sorted(place.glob("[1-9]*")):
        if folder.name.isdecimal() and int(folder.name) > int(VERSION):
            raise FileExistsError(
                f"{folder} is a later version than {VERSION}, so Triton would serve it alone; "
                f"remove it, or give another name"
            )
