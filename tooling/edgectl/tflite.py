"""What a `.tflite` file says of itself: its inputs and outputs. It may be anybody's, and is read with suspicion."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edgectl.errors import UserError
from edgectl.flatbuffer import Table, read_number

_IDENTIFIER = b"TFL3"
_TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64"
)  # fmt: skip  # of the schema's TensorType, in its order
_SUBGRAPHS = 2  # slots of Model, SubGraph and Tensor
_TENSORS, _INPUTS, _OUTPUTS = 0, 1, 2
_SHAPE, _TYPE = 0, 1


@dataclass(frozen=True)
class Tensor:
    """Shape and element type of an input or output."""

    shape: list[int]
    dtype: str


def inputs_and_outputs(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and the outputs of a model's main subgraph.

    Raises:
        UserError: the file cannot be read, is no .tflite, is damaged, or takes or gives what has no fixed size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if data[4:8] != _IDENTIFIER:
        raise UserError(f"{path} is not a .tflite model: it does not begin as one.")
    try:
        main = next(Table(data, read_number(data, "<I", 0)).tables(_SUBGRAPHS))
        tensors = [_tensor(table) for table in main.tables(_TENSORS)]
        inputs, outputs = ([tensors[i] for i in main.integers(slot)] for slot in (_INPUTS, _OUTPUTS))
    except (struct.error, ValueError, IndexError, StopIteration) as error:
        raise UserError(f"{path} is damaged or cut short: its tensors cannot be read.") from error
    if not inputs or not outputs:
        raise UserError(f"{path} has no inputs or no outputs.")
    for tensor in (*inputs, *outputs):
        if tensor.dtype == "string" or any(size < 1 for size in tensor.shape):
            raise UserError(
                f"{path} takes or gives {tensor.dtype} of shape {tensor.shape}: only tensors of fixed sizes can be run."
            )
    return inputs, outputs


def _tensor(table: Table) -> Tensor:
    return Tensor(table.integers(_SHAPE), _TYPES[table.number(_TYPE, "<b")])
