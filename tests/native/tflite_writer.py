"""Writes small .tflite files, whole or wrong in one place, on LiteRT's own generated schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

PLAN_MAGIC = b"EDGEPLAN"
_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "bool": schema.TensorType.BOOL,
}


class _Builder(flatbuffers.Builder):
    """Puts the bytes of every constant at a multiple of 64 (or next to one)."""

    def __init__(self, alignment: int) -> None:
        super().__init__(1 << 16)
        self.alignment = alignment

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, x.size, self.alignment)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return int(self.EndVector())


class TfliteWriter:
    """One graph: tensors and operators are added in order, and `model` may be changed before `write`."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape: Sequence[int], dtype: str = "float32", data: np.ndarray | bytes | None = None) -> int:
        """A tensor, or a constant when it has data."""
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}"
        tensor.shape, tensor.type = list(shape), _TYPES[dtype]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data if isinstance(data, bytes) else data.astype(dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, code: int | str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        """An operator: a builtin one by its number, a custom one by its name."""
        kind = schema.OperatorCodeT()
        kind.version = 1
        kind.builtinCode = schema.BuiltinOperator.CUSTOM if isinstance(code, str) else code
        kind.deprecatedBuiltinCode = min(kind.builtinCode, 127)
        if isinstance(code, str):
            kind.customCode = code
        self.model.operatorCodes.append(kind)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)

    def plan(self, plan: bytes, inputs: Sequence[int], outputs: Sequence[int], code: str = "EdgeKernels") -> None:
        """An operator of ours."""
        self.op(code, [*inputs, self.tensor([len(plan)], "uint8", plan)], outputs)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int], alignment: int = 64) -> Path:
        """Writes the file; `alignment` is that of the constants in it."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = _Builder(alignment)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def plans_in(pte: bytes) -> list[bytes]:
    """The plans in an ExecuTorch program, in the order of the file."""
    plans = []
    start = pte.find(PLAN_MAGIC)
    while start >= 0:
        size = int.from_bytes(pte[start + 32 : start + 40], "little")  # Header::total_size
        plans.append(pte[start : start + size])
        start = pte.find(PLAN_MAGIC, start + size)
    return plans
