"""Int8 quantisation after training: a module becomes a graph whose chosen layers read int8 values and codebook weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgectl.compress.layers import Prunable, assign, check_weight, prunable_layers
from edgectl.compress.parametrize import Rule
from edgectl.compress.quantizers import codebook, fit_scales, project, row_schemes
from edgectl.errors import UserError, first_line
from edgectl.quiet import quiet

with quiet():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from edgectl.compress.annotate import EdgeQuantizer, layers_with, operation

Progress = Callable[[str, float | None], None]

_BITS = range(2, 9)
_TOP = 127  # of the levels: symmetric


def quantise(
    model: nn.Module,
    example: Tensor,
    rules: Sequence[Rule],
    images: Iterable[Tensor],
    progress: Progress = lambda message, fraction: None,
) -> fx.GraphModule:
    """The model with int8 activations and codebook weights in the layers that `rules` match, as a graph to export.

    Batch norm is folded first. The scales and zero points of activations come from what the model computes for `images`;
    `annotate.EdgeQuantizer` says which values are int8. They pass through quantize_per_tensor and dequantize_per_tensor. A
    chosen layer's weight is dequantize_per_channel of int8 levels and float32 scales, along axis 0, or 1 for transposed
    convolutions (whose groups share their scales). Which rows of msq are SP2 is decided before batch norm is folded, as in
    training. Biases stay float32.

    Args:
        model: in eval mode, its weights plain; it is not changed. Layers keep their module paths in the graph.
        example: the input, whose shape the graph is for.
        rules: of several rules for one layer the last one holds.
        images: float32 inputs of the example's shape, one at least.
        progress: called with a message and the fraction done, or None.

    Raises:
        UserError: a rule is wrong or its levels do not fit int8, a weight is not finite, or the model cannot be traced.
    """
    chosen = check_rules(model, rules)
    plans = {id(layer.weight): _Plan.of(path, layer, rule) for path, (layer, rule) in chosen.items()}
    # a layer used under two names may have its weight under either in the graph
    named = {name: plans[id(w)] for name, w in model.named_parameters(remove_duplicate=False) if id(w) in plans}
    progress("tracing the model for calibration", None)
    try:
        traced = torch.export.export(model, (example,)).module(check_guards=False)
    except Exception as error:
        raise UserError(f"torch.export cannot trace the model: {first_line(error)}") from error
    assert isinstance(traced, fx.GraphModule)
    _drop_dropout(traced)
    with torch.no_grad():
        prepared = prepare_pt2e(traced, EdgeQuantizer(named))
        _calibrate(prepared, images, progress)
        converted = convert_pt2e(prepared)
        _quantise_weights(converted, named, progress)
    return fx.GraphModule(converted, converted.graph)  # without the float weights


def check_rules(model: nn.Module, rules: Sequence[Rule]) -> dict[str, tuple[Prunable, Rule]]:
    """Module path -> (layer, the last rule that matches it).

    Raises:
        UserError: a glob matches no layer, a codebook is unknown, its levels do not fit int8, or a weight is parametrised
            or not finite.
    """
    chosen = assign(prunable_layers(model), rules, "quantisation")
    for rule in rules:
        if not _fits_int8(rule.weights, rule.bits):
            most = max(bits for bits in _BITS if _fits_int8(rule.weights, bits))
            raise UserError(
                f"{rule.weights} weights of {rule.bits} bits have levels beyond 8-bit integers, "
                f"on which layers compute: choose at most {most} bits for {rule.match!r}."
            )
    for path, (layer, _) in chosen.items():
        check_weight(path, layer, "quantising")
    return chosen


def _fits_int8(weights: str, bits: int) -> bool:
    names = ("fixed", "sp2") if weights == "msq" else (weights,)
    return all(codebook(name, bits).fits_int8 for name in names)


@dataclass(frozen=True)
class _Plan:
    """What becomes of a layer's weight: its rule, and the codebook's name of every row."""

    rule: Rule
    schemes: tuple[str, ...]

    @classmethod
    def of(cls, path: str, layer: Prunable, rule: Rule) -> _Plan:
        try:
            rows = _rows(layer.weight, isinstance(layer, nn.ConvTranspose2d))
            return cls(rule, row_schemes(rows, rule.weights, rule.bits, rule.sp2_rows))
        except UserError as error:
            raise UserError(f"Layer {path} cannot be quantised: {error}") from error


def _rows(weight: Tensor, transposed: bool) -> Tensor:
    """The weight with the axis first that has scales of its own, detached."""
    return weight.detach().transpose(0, int(transposed))


def _drop_dropout(model: fx.GraphModule) -> None:
    """In eval mode dropout passes its input on."""
    for node in model.graph.nodes:
        if operation(node) == "dropout" and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)


def _calibrate(prepared: fx.GraphModule, images: Iterable[Tensor], progress: Progress) -> None:
    total = len(images) if isinstance(images, Sized) else None
    for done, image in enumerate(images):
        progress("calibrating activations", done / total if total else None)
        try:
            prepared(image)
        except RuntimeError as error:
            raise UserError(f"The model fails on calibration image {done + 1}: {first_line(error)}") from error


def _quantise_weights(model: fx.GraphModule, named: Mapping[str, _Plan], progress: Progress) -> None:
    """Puts levels, scales and their product in the place of the float weights, in place."""
    layers = list(layers_with(model.graph, named))
    for done, (name, node) in enumerate(layers):
        progress("quantising weights", done / len(layers))
        plan, transposed = named[name], operation(node) == "conv_transpose2d"
        path = name.rpartition(".")[0]
        layer = model.get_submodule(path)
        if not hasattr(layer, "levels"):
            rows = _rows(model.get_parameter(name), transposed)
            scales = fit_scales(rows, plan.schemes, plan.rule.bits, plan.rule.scale)
            levels = project(rows, scales, plan.schemes, plan.rule.bits).levels.to(torch.int8)
            layer.register_buffer("levels", levels.transpose(0, int(transposed)).contiguous())
            layer.register_buffer("scales", scales)
            layer.register_buffer("zero_points", torch.zeros(len(rows), dtype=torch.int64))
        with model.graph.inserting_before(node):
            parts = [model.graph.get_attr(f"{path}.{part}".lstrip(".")) for part in ("levels", "scales", "zero_points")]
            dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
            product = model.graph.call_function(dequantize, (*parts, int(transposed), -_TOP, _TOP, torch.int8))
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        node.replace_input_with(weight, product)
    model.graph.eliminate_dead_code()
