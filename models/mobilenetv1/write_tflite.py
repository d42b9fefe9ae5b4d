"""Writes a recipe's MobileNetV1 as two stock .tflite files: dense, and in LiteRT's own sparse form, which XNNPACK's SpMM takes.

XNNPACK runs a network sparse on arm64 only, when more than two thirds of its 1x1 weights are zero, and only if every
operation is one that it has for channels-first maps: hence explicit PAD before VALID convolutions, and MEAN at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgectl.compress.prune import prune_oneshot
from edgectl.errors import UserError
from edgectl.lowering.litert import packed
from edgectl.recipe import Recipe, load_model

TYPES = {np.dtype(np.float32): schema.TensorType.FLOAT32, np.dtype(np.int32): schema.TensorType.INT32}


class Graph:
    """A .tflite model in the making: one subgraph, float32, channels last."""

    def __init__(self) -> None:
        self.subgraph = schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[], name=b"main")
        self.model = schema.ModelT(version=3, operatorCodes=[], subgraphs=[self.subgraph], buffers=[schema.BufferT()])

    def tensor(self, name: str, shape: Sequence[int], data: np.ndarray | None = None, sparsity: Any = None) -> int:
        """Adds a float32 activation, or a constant of the type of `data`; returns its index."""
        kind = schema.TensorType.FLOAT32 if data is None else TYPES[data.dtype]
        tensor = schema.TensorT(shape=list(shape), type=kind, buffer=0, name=name.encode(), sparsity=sparsity)
        if data is not None:
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT(data=np.frombuffer(data.tobytes(), np.uint8)))
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def constant(self, name: str, data: np.ndarray) -> int:
        """Adds a constant; returns its index."""
        return self.tensor(name, data.shape, data)

    def shape(self, tensor: int) -> list[int]:
        """The shape of a tensor."""
        return list(self.subgraph.tensors[tensor].shape)

    def operation(self, name: str, inputs: Sequence[int], output: int, options: Any) -> int:
        """Adds the builtin operation `name` (as the schema spells it) with its options table; returns `output`."""
        code = getattr(schema.BuiltinOperator, name)
        codes = [entry.builtinCode for entry in self.model.operatorCodes]
        if code not in codes:
            old = min(code, 127)  # what readers of before 2020 look at
            self.model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=old, version=1, builtinCode=code))
            codes.append(code)
        kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.subgraph.operators.append(
            schema.OperatorT(
                opcodeIndex=codes.index(code),
                inputs=list(inputs),
                outputs=[output],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )
        return output

    def finish(self, source: int, result: int) -> bytes:
        """The file: a model from tensor `source` to tensor `result`."""
        self.subgraph.inputs, self.subgraph.outputs = [source], [result]
        return packed(self.model)


def compressed(weight: np.ndarray) -> tuple[np.ndarray, Any]:
    """The non-zeros of a 1x1 weight [out, 1, 1, in], and where they are: a compressed sparse row for each output channel."""
    matrix = weight.reshape(weight.shape[0], -1)
    columns = np.nonzero(matrix)[1]
    ends = np.concatenate([[0], np.cumsum(np.count_nonzero(matrix, axis=1))])
    dense = [schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=size) for size in weight.shape[:3]]
    rows = schema.DimensionMetadataT(
        format=schema.DimensionType.SPARSE_CSR,
        arraySegmentsType=schema.SparseIndexVector.Int32Vector,
        arraySegments=schema.Int32VectorT(values=ends.astype(np.int32)),
        arrayIndicesType=schema.SparseIndexVector.Uint16Vector,
        arrayIndices=schema.Uint16VectorT(values=columns.astype(np.uint16)),
    )
    sparsity = schema.SparsityParametersT(traversalOrder=[0, 1, 2, 3], blockMap=[], dimMetadata=[*dense, rows])
    return matrix[matrix != 0], sparsity


def convolution(graph: Graph, name: str, source: int, block: nn.Sequential, sparse: bool) -> int:
    """Convolution, batch norm (folded) and ReLU6; `sparse` stores the weight compressed, with DENSIFY behind it."""
    conv = fuse_conv_bn_eval(block.conv, block.bn)
    assert conv.bias is not None
    stride, pad = int(conv.stride[0]), int(conv.padding[0])
    if pad:
        batch, height, width, channels = graph.shape(source)
        around = graph.constant(f"{name}.around", np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32))
        padded = graph.tensor(f"{name}.padded", (batch, height + 2 * pad, width + 2 * pad, channels))
        source = graph.operation("PAD", [source, around], padded, schema.PadOptionsT())
    order = (1, 2, 3, 0) if conv.groups > 1 else (0, 2, 3, 1)  # channels last, which are the filters of a depthwise one
    data = np.ascontiguousarray(conv.weight.detach().numpy().transpose(order))
    if sparse:
        values, sparsity = compressed(data)
        stored = graph.tensor(f"{name}.compressed", data.shape, values, sparsity)
        dense = graph.tensor(f"{name}.weight", data.shape)
        weight = graph.operation("DENSIFY", [stored], dense, schema.DensifyOptionsT())
    else:
        weight = graph.constant(f"{name}.weight", data)
    bias = graph.constant(f"{name}.bias", conv.bias.detach().numpy())
    batch, height, width, _ = graph.shape(source)
    kernel = conv.kernel_size[0]
    out = graph.tensor(name, (batch, (height - kernel) // stride + 1, (width - kernel) // stride + 1, conv.out_channels))
    common: dict[str, Any] = {
        "padding": schema.Padding.VALID,
        "strideW": stride,
        "strideH": stride,
        "fusedActivationFunction": schema.ActivationFunctionType.RELU6,
    }
    if conv.groups > 1:
        options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1, **common)
        return graph.operation("DEPTHWISE_CONV_2D", [source, weight, bias], out, options)
    return graph.operation("CONV_2D", [source, weight, bias], out, schema.Conv2DOptionsT(**common))


def write(network: nn.Module, image: Sequence[int], sparse: bool) -> bytes:
    """The .tflite file of a `model.MobileNetV1` in eval mode.

    Args:
        network: the network; its 1x1 convolutions are those to store compressed.
        image: its input's shape, [N, 3, H, W]; the file's is [N, H, W, 3].
        sparse: the form of the 1x1 weights.
    """
    graph = Graph()
    batch, channels, height, width = image
    source = graph.tensor("image", (batch, height, width, channels))
    tensor = convolution(graph, "stem", source, network.stem, False)
    for index, block in enumerate(network.blocks):
        tensor = convolution(graph, f"blocks.{index}.depthwise", tensor, block.depthwise, False)
        tensor = convolution(graph, f"blocks.{index}.pointwise", tensor, block.pointwise, sparse)
    axes = graph.constant("mean.axes", np.array([1, 2], np.int32))
    mean = graph.tensor("mean", (batch, graph.shape(tensor)[3]))
    graph.operation("MEAN", [tensor, axes], mean, schema.ReducerOptionsT(keepDims=False))
    weight = graph.constant("classifier.weight", network.classifier.weight.detach().numpy())
    bias = graph.constant("classifier.bias", network.classifier.bias.detach().numpy())
    logits = graph.tensor("classifier", (batch, network.classifier.out_features))
    graph.operation("FULLY_CONNECTED", [mean, weight, bias], logits, schema.FullyConnectedOptionsT())
    return graph.finish(source, logits)


def main() -> None:
    """Writes OUT/dense.tflite and OUT/sparse.tflite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="for example models/mobilenetv1/unstructured.toml")
    parser.add_argument("out", type=Path, help="the folder for dense.tflite and sparse.tflite")
    args = parser.parse_args()
    try:
        recipe = Recipe.load(args.recipe)
        network = load_model(recipe)
        prune_oneshot(network, recipe.prune)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sparse in (("dense", False), ("sparse", True)):
        path = args.out / f"{name}.tflite"
        path.write_bytes(write(network, recipe.model.input, sparse))
        print(f"{path} {path.stat().st_size}")


if __name__ == "__main__":
    main()
