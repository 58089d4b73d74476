"""A trained run as an ONNX model; needs the `onnx` extra."""
