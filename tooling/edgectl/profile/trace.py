"""The points of a PyTorch module that was not built: what a search predicts the time of, thousands of times."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from edgectl.errors import UserError, first_line
from edgectl.lowering.pack import recognise
from edgectl.profile.points import Point
from edgectl.recipe import PruneRule, Recipe, load_model

_ACTIVATIONS = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.Hardswish: "hardswish", nn.Sigmoid: "sigmoid",
    nn.Mish: "mish", nn.SiLU: "silu",
}  # fmt: skip
_FUNCTIONS = {torch.relu: "relu", nn.functional.relu: "relu", "relu": "relu", torch.sigmoid: "sigmoid", "sigmoid": "sigmoid"}
_ADD = (operator.add, torch.add, "add")
_NOTHING = (nn.Identity, nn.Dropout, nn.Flatten, nn.BatchNorm2d)


def points_of_recipe(recipe: Recipe) -> dict[str, Point]:
    """Layer's name -> point, of what a recipe would build if its rules kept exactly as many weights as their rates say.

    Raises:
        UserError: the recipe's model cannot be loaded, or `points_of_module` refuses it, or it is not of float32.
    """
    if recipe.quant or recipe.target.precision != "fp32":
        raise UserError(f"{recipe.path} is not of float32: build it, and predict the time of the artifact's layers.")
    return points_of_module(load_model(recipe), recipe.model.input, recipe.prune)


def points_of_module(module: nn.Module, shape: Sequence[int], rules: Sequence[PruneRule] = ()) -> dict[str, Point]:
    """Layer's name -> point of a float module, pruned by rules, for inputs of a shape (N = 1).

    Batch norm, activations and additions go into convolutions and linear layers as edgectl.lowering.passes puts them there.
    A layer that no rule matches has the zeros that its weight has. The module is not run: it takes milliseconds. Names of
    operations that are no modules are fx's.

    Raises:
        UserError: torch.fx cannot trace the module, or it has an operation that is not known here.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(module).to("meta"))
        ShapeProp(traced).propagate(torch.zeros(*shape, device="meta"))
    except Exception as error:
        raise UserError(f"torch.fx cannot trace the model: {first_line(error)}") from error
    reader = _Reader(traced, module, rules)
    for node in traced.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            reader.read(node)
    return {name: Point(**facts) for name, facts in reader.points.items()}


@dataclass
class _Reader:
    """Reads nodes in their order.

    Attributes:
        points: name -> fields of the point.
        made_by: node -> name of the convolution or linear layer that its value comes from and that could do more.
    """

    traced: fx.GraphModule
    original: nn.Module
    rules: Sequence[PruneRule]
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    made_by: dict[fx.Node, str] = field(default_factory=dict)

    def read(self, node: fx.Node) -> None:
        """Adds the node's point, or puts it into another's."""
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        inputs = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            self.points[str(node.target)] = self._weighted(str(node.target), module, node, inputs[0])
            self.made_by[node] = str(node.target)
        elif isinstance(module, _NOTHING) or (node.op != "call_module" and node.target in (torch.flatten, "flatten")):
            self._pass(inputs[0], node)
        elif (activation := _ACTIVATIONS.get(type(module)) or _FUNCTIONS.get(node.target)) is not None:
            name = self._only(inputs[0])
            if name is not None and not self.points[name]["activation"]:
                self.points[name]["activation"] = activation
                self.made_by[node] = name
            else:
                self._plain(node, inputs[0], activation)
        elif node.op != "call_module" and node.target in _ADD:
            self._add(node, inputs)
        elif isinstance(module, nn.PixelShuffle):
            self._plain(node, inputs[0], "pixel_shuffle")
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._plain(node, inputs[0], "avgpool")
        elif isinstance(module, nn.MaxPool2d):
            size = module.kernel_size
            height, width = size if isinstance(size, tuple) else (size, size)
            self._plain(node, inputs[0], f"maxpool{height}x{width}")
        else:
            what = type(module).__name__ if module is not None else str(node.target)
            raise UserError(f"{what} ({node.name}) is not known before it is built: build the model, and predict its layers.")

    def _add(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        if len(inputs) == 2 and inputs[0] is not inputs[1] and _shape(inputs[0]) == _shape(inputs[1]):
            order = list(self.points)
            names = [(self._only(value), value) for value in inputs]
            for name, _ in sorted(((n, v) for n, v in names if n), key=lambda pair: -order.index(str(pair[0]))):
                if name is not None and not self.points[name]["residual"]:
                    self.points[name]["residual"] = True
                    self.points[name] = self.points.pop(name)  # it now runs where the addition was
                    self.made_by[node] = name
                    return
        self._plain(node, inputs[0], "add")

    def _only(self, value: fx.Node) -> str | None:
        return self.made_by.get(value) if len(value.users) == 1 else None

    def _pass(self, value: fx.Node, node: fx.Node) -> None:
        name = self._only(value)
        if name is not None:
            self.made_by[node] = name

    def _plain(self, node: fx.Node, value: fx.Node, op: str) -> None:
        name = str(node.target) if node.op == "call_module" else node.name
        self.points[name] = _sizes(value, node) | {"op": op, "activation": "", "residual": False}

    def _weighted(
        self, path: str, layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, node: fx.Node, value: fx.Node
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {"activation": "", "residual": False}
        if isinstance(layer, nn.Linear):
            rows = 1 if len(_shape(value)) < 2 else int(torch.Size(_shape(value)[:-1]).numel())
            facts |= {"op": "linear", "channels": layer.in_features, "height": rows, "width": 1}
            facts |= {"filters": layer.out_features, "out_height": rows, "out_width": 1}
            pointwise, square = True, False
        else:
            depthwise = layer.groups == layer.in_channels and layer.groups > 1
            op = "deconv" if isinstance(layer, nn.ConvTranspose2d) else "dwconv" if depthwise else "conv"
            facts |= _sizes(value, node) | {"op": op, "kernel": tuple(layer.kernel_size), "groups": layer.groups}
            facts["stride"] = layer.stride[0]
            pointwise, square = layer.kernel_size == (1, 1), layer.kernel_size == (3, 3)
        matching = [rule for rule in self.rules if fnmatchcase(path, rule.match)]
        if not matching:
            weight = self.original.get_parameter(f"{path}.weight").detach().numpy()
            return facts | {"scheme": recognise(weight), "nonzeros": max(1, int(np.count_nonzero(weight)))}
        rate, scheme = matching[-1].rate, str(matching[-1].scheme)
        if rate <= 1.01 or (scheme == "pattern" and not square):
            scheme = "dense"
        if scheme == "block_punched" and pointwise:
            scheme = "block_column"
        return facts | {"scheme": scheme, "nonzeros": max(1, round(layer.weight.numel() / rate))}


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _sizes(value: fx.Node, node: fx.Node) -> dict[str, int]:
    """Channels, height and width of the input and of the output."""
    found: dict[str, int] = {}
    for shape, names in (
        (_shape(value), ("channels", "height", "width")),
        (_shape(node), ("filters", "out_height", "out_width")),
    ):
        sizes = shape[1:] if len(shape) == 4 else (int(torch.Size(shape).numel()), 1, 1)
        found |= dict(zip(names, sizes, strict=True))
    return found
