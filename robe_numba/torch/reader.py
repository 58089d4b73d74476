"""What all modules that read a shared array have in common."""

from typing import Any

import torch
from torch import Tensor, nn

from robe_numba.spec import RobeSpec
from robe_numba.torch.array import RobeArray


class RobeReader(nn.Module):
    """A module that reads a shared array.

    Parameters
    ----------
    array : RobeArray
        The only parameter.
    spec : RobeSpec
        How rows are read. It is part of `state_dict`, and a state of another spec is refused.
    """

    def __init__(self, array: RobeArray, spec: RobeSpec):
        super().__init__()
        if array.size != spec.array_size:
            raise ValueError(
                f"the array has {array.size} elements, but the spec reads {spec.array_size}; make "
                f"them equal"
            )
        self.array, self.spec = array, spec
        self._spec_text = spec.to_json()

    # What torch's modules have; see `options.refuse_options`.
    max_norm, norm_type, scale_grad_by_freq, sparse = None, 2.0, False, False

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                "a hashed table has no weight (num_embeddings, d); use module.array.weight, the "
                "shared array, or the rows that it stands for: module(torch.arange(num_embeddings))"
            )
        return super().__getattr__(name)

    @property
    def embedding_dim(self) -> int:
        """d, elements of one embedding."""
        return self.spec.embedding_dim

    def reset_parameters(self) -> None:
        """Draw new values for the whole array; other modules that read it get them too."""
        self.array.reset_parameters()

    def get_extra_state(self) -> Tensor:
        """The spec for `state_dict`: its JSON as bytes, which every file format holds."""
        return torch.tensor(list(self._spec_text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Require a state of this module's spec.

        Raises
        ------
        ValueError
            It is that of another spec; the array has not been written.
        """
        saved = RobeSpec.from_json(bytes(state.tolist()).decode())
        if saved != self.spec:
            raise ValueError(
                f"the state is that of {saved!r}, but the module has {self.spec!r}; make the "
                f"module with the arguments of the saved one"
            )

    def _describe(self, num_embeddings: int | None, **options: Any) -> str:
        """For `extra_repr`."""
        given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
        return ", ".join([f"{num_embeddings}, {self.embedding_dim}", *given, str(self.spec)])
