"""A trained run as an ONNX model, or in a model repository of Triton; needs the `onnx` extra."""

try:
    import onnx  # noqa: F401  (only whether it is missing matters here)
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"robe_numba.onnx needs onnx ({error}): pip install 'robe-numba[onnx]'", name=error.name
    ) from error

from typing import TYPE_CHECKING

from robe_numba._lazy import attributes

if TYPE_CHECKING:
    from robe_numba.onnx.export import Exported, export_repository, export_run

__all__ = ["Exported", "export_repository", "export_run"]

__getattr__, __dir__ = attributes(__name__, dict.fromkeys(__all__, "robe_numba.onnx.export"))
