"""The dense layers of a DLRM, each with its own backward pass."""
