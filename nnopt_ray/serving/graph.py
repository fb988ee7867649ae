"""ONNX nodes, written one behind the other; names of tensors are strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

PREFIX = "prepare/"  # of all tensors that are made here
SPECIAL = "ai.onnx.ml"  # the domain of LabelEncoder


class Graph:
    """Operators of ONNX 18 and of ai.onnx.ml 3. Numbers are float64 until they become inputs of the network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """The output of a new node."""
        from onnx import helper

        name = output or f"{PREFIX}{len(self.nodes)}"
        domain = SPECIAL if kind == "LabelEncoder" else ""
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, values: Any, kind: Any = np.float64) -> str:
        """A tensor of these numbers; of texts where `kind` is str."""
        from onnx import numpy_helper

        name = f"{PREFIX}constant {len(self.constants)}"
        array = np.array(values, dtype=object if kind is str else kind)
        if kind is str:
            self.constants.append(texts_of(name, [str(text) for text in array.ravel()]))
        else:
            self.constants.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, tensor: str, kind: Any, output: str = "") -> str:
        from onnx import helper

        return self.op("Cast", tensor, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def looked_up(self, words: str, found: dict[str, int], other: int = -1) -> str:
        """int64: of each text the number that `found` has for it, else `other`."""
        keys = found or {"": other}
        return self.op(
            "LabelEncoder", words, keys_strings=list(keys), values_int64s=list(keys.values()), default_int64=other
        )

    def polynomial(self, x: str, coefficients: list[float]) -> str:
        """By Horner's rule, the highest power first."""
        found = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            found = self.op("Add", self.op("Mul", found, x), self.constant(coefficient))
        return found


def texts_of(name: str, texts: list[str]) -> onnx.TensorProto:
    """A constant of texts, [texts]."""
    from onnx import TensorProto

    return TensorProto(
        name=name, data_type=TensorProto.STRING, dims=[len(texts)], string_data=[text.encode() for text in texts]
    )


__all__ = ["PREFIX", "SPECIAL", "Graph", "texts_of"]
