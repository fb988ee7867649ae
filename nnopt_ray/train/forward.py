"""A network computed on a batch, in the memory order and the number format that are chosen for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import PartError
from nnopt_ray.machine import Machine
from nnopt_ray.train import images
from nnopt_ray.train.precision import LOWER


class Forward:
    """Calls a model. `name`: its type on the page. channels_last: whether images are given with channels last."""

    def __init__(self, model: nn.Module, shapes: Shapes, machine: Machine, name: str) -> None:
        self.model, self.shapes, self.machine, self.name = model, shapes, machine, name
        self.channels_last = images.gain_from_channels_last(model, shapes, machine.device)
        self._device = torch.device(machine.device).type
        self._lower = LOWER.get(machine.precision)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """float32 outputs [rows, outputs], of a language task [rows, length, outputs]."""
        if self.channels_last:
            inputs = images.channels_last(inputs)
        try:
            if self._lower is None:
                outputs: Tensor = self.model(*inputs)
                return outputs
            with torch.autocast(self._device, dtype=self._lower):
                outputs = self.model(*inputs)
        except RuntimeError as error:
            if (told := self._told(error)) is None:
                raise
            raise told from error
        return outputs.float()

    def _told(self, error: RuntimeError) -> PartError | None:
        """What torch has to say, as a sentence where it can be one."""
        if "could not create a primitive" in str(error):  # oneDNN's, of an LSTM in float16 say
            return PartError(
                f"the model '{self.name}' has a layer that torch cannot compute in {self.machine.precision} on this "
                f"{self._device}: set train.precision to float32."
            )
        if "mixed torch.Tensor and DTensor" in str(error):
            return PartError(
                f"the model '{self.name}' uses weights of a layer of a ModuleList or Sequential without calling that "
                "layer, and resources.fsdp brings them together for the call alone: call the layer."
            )
        return None

    def check(self, outputs: object, rows: int) -> None:
        """Raises PartError for what is no such output of so many rows.

        A target of shape [rows, 1] would be broadcast against outputs [rows] without a word.
        """
        shapes = self.shapes
        expected = (rows, *(shapes.inputs[0].shape if shapes.is_language else ()), shapes.outputs)
        if not isinstance(outputs, Tensor) or outputs.shape != expected:
            found = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            asked = "[rows, length, outputs]" if shapes.is_language else "[rows, outputs]"
            raise PartError(
                f"the model '{self.name}' must return one tensor of shape {asked}, here {list(expected)}, and returned "
                f"{found}."
            )
        if not outputs.requires_grad:
            raise PartError(
                f"the model '{self.name}' returned outputs that hang on none of its weights, so no gradient can reach "
                "its weights: look for detach(), no_grad() or NumPy in its forward."
            )
