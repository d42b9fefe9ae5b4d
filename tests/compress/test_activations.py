"""Int8 activations: which values become int8, what stays float, and weights as levels times scales under their own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from edgectl.compress import quantizers
from edgectl.compress.activations import quantise
from edgectl.errors import UserError
from edgectl.lowering.read import module_path
from edgectl.quiet import quiet


@dataclass(frozen=True)
class Rule:
    match: str = "*"
    weights: str = "fixed"
    bits: int = 8
    sp2_rows: float | list[int] = 2 / 3
    scale: Literal["row", "layer"] = "row"


EXAMPLE = (1, 4, 12, 12)


def quantised(model: nn.Module, *rules: Rule, shape=EXAMPLE, images=4) -> fx.GraphModule:
    torch.manual_seed(1)
    inputs = [torch.rand(shape) for _ in range(images)]
    with quiet():
        return quantise(model.eval(), inputs[0], rules or (Rule(),), inputs)


def of(graph: fx.GraphModule, name: str) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function" and name == str(node.target).split(".")[1]]


def int8_values(graph: fx.GraphModule) -> list[str]:
    """Names of the values that are quantised, in the graph's order."""
    return [node.args[0].name for node in of(graph, "quantize_per_tensor")]


def grid(node: fx.Node) -> tuple[float, int]:
    """Scale and zero point of a quantisation or dequantisation."""
    return node.args[1], node.args[2]


def is_dequantised(value: fx.Node) -> bool:
    return "dequantize_per_tensor" in str(value.target)


def noise(graph: fx.GraphModule, model: nn.Module, shape=EXAMPLE) -> float:
    """Root mean square of the error over that of the model's result."""
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        want, got = model(inputs), graph(inputs)
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def conv(channels=4, out=None, kernel=3, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, out or channels, kernel, padding=kernel // 2, **options)


def trained_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor, low, high in (
            (norm.weight, 0.3, 3),
            (norm.bias, -1, 1),
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.2, 2),
        ):
            tensor.uniform_(low, high)
    return norm


class Inverted(nn.Module):
    """A block of MobileNetV2, with in-place activations."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(conv(4, 12, 1, bias=False), trained_norm(12), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(conv(12, groups=12, bias=False), trained_norm(12), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(conv(12, 4, 1, bias=False), trained_norm(4))

    def forward(self, x):
        return x + self.project(self.depthwise(self.expand(x)))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv()
        self.blocks = nn.Sequential(Inverted(), Inverted())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.blocks(self.stem(x))).flatten(1)))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_classifier_computes_nearly_the_same():
    model = Classifier().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert noise(quantised(model), model) < 0.03
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_keep_their_names_when_the_graph_is_exported_again():
    model = Classifier()
    program = torch.export.export(quantised(model), (torch.rand(EXAMPLE),))
    names = [module_path(node) for node in program.graph.nodes if "conv" in str(node.target) or "linear" in str(node.target)]
    parts = ("expand", "depthwise", "project")
    assert names == ["stem", *(f"blocks.{i}.{part}.0" for i in range(2) for part in parts), "fc"]
    assert {tensor.dtype for name, tensor in program.state_dict.items() if "levels" in name} == {torch.int8}
    assert not [name for name in program.state_dict if name.endswith(".weight")]


def test_every_layer_of_a_chain_reads_int8_and_only_the_result_of_its_unit_is_rounded():
    graph = quantised(Classifier())
    assert all(is_dequantised(node.args[0]) for kind in ("conv2d", "linear", "adaptive_avg_pool2d") for node in of(graph, kind))
    for node in of(graph, "conv2d")[1:]:
        (after,) = node.users
        assert str(after.target).split(".")[1] in ("hardtanh_", "add")
    for node in of(graph, "add"):
        residual, value = node.args
        assert is_dequantised(residual) and "conv2d" in str(value.target)


@pytest.mark.parametrize(
    "act", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-1, 2), nn.LeakyReLU(0.1)], ids=lambda a: type(a).__name__
)
def test_a_convolution_and_its_activation_are_rounded_once(act):
    model = nn.Sequential(conv(), act, conv())
    graph = quantised(model)
    assert len(int8_values(graph)) == 2
    assert int8_values(graph)[1] == next(iter(of(graph, "conv2d")[0].users)).name
    assert noise(graph, model) < 0.03


@pytest.mark.parametrize("act", [nn.Hardswish(), nn.SiLU(), nn.Mish(), nn.Sigmoid()], ids=lambda a: type(a).__name__)
def test_before_other_activations_a_convolution_stays_float(act):
    graph = quantised(nn.Sequential(conv(), act, conv()))
    (after,) = of(graph, "conv2d")[0].users
    assert int8_values(graph) == ["input_1", after.name]


class Residual(nn.Module):
    def __init__(self, act=nn.ReLU, activate_first=False):
        super().__init__()
        self.first, self.second, self.last = conv(), conv(), conv()
        self.act, self.activate_first = act(), activate_first

    def forward(self, x):
        x = self.first(x)
        y = self.act(self.second(x)) + x if self.activate_first else self.act(self.second(x) + x)
        return self.last(y)


@pytest.mark.parametrize("activate_first", [False, True])
def test_a_sum_with_a_residual_is_part_of_the_convolution_before_it(activate_first):
    model = Residual(activate_first=activate_first)
    graph = quantised(model)
    (add,) = of(graph, "add")
    assert int8_values(graph) == ["x", "conv2d", "add" if activate_first else "relu"]
    value, residual = add.args
    assert is_dequantised(residual) and not is_dequantised(value)
    assert grid(residual) == grid(of(graph, "quantize_per_tensor")[1])
    assert noise(graph, model) < 0.03


def test_a_convolution_that_something_else_reads_too_is_not_fused_with_a_sum():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = conv(), conv(), conv()

        def forward(self, x):
            y = self.first(x)
            return self.right(y + torch.sigmoid(x)) + self.left(y)

    graph = quantised(Net())
    assert int8_values(graph) == ["x", "conv2d", "add", "conv2d_1"]
    first, _ = of(graph, "add")
    assert is_dequantised(first.args[0])


def test_of_two_convolutions_that_are_added_the_later_adds_the_rounded_earlier_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = conv(), conv(), conv()

        def forward(self, x):
            return self.last(F.relu(self.left(x) + self.right(x)))

    graph = quantised(Net())
    (add,) = of(graph, "add")
    assert is_dequantised(add.args[0]) and add.args[1].name == "conv2d_1"
    assert int8_values(graph) == ["x", "conv2d", "relu"]


def test_a_sum_of_other_shapes_or_with_a_constant_is_not_fused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = conv(), conv()
            self.register_buffer("offset", torch.rand(1, 4, 12, 12))

        def forward(self, x):
            y = self.first(x)
            return self.second(y + y.mean((2, 3), keepdim=True) + self.offset)

    graph = quantised(Net())
    assert int8_values(graph) == ["x", "add_1"]


@pytest.mark.parametrize(
    "move",
    [
        nn.MaxPool2d(2),
        nn.PixelShuffle(2),
        nn.Upsample(scale_factor=2),
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 12, 12))),
    ],
    ids=["max pool", "pixel shuffle", "upsample", "view"],
)
def test_operations_that_move_values_keep_their_scale(move):
    channels = 1 if isinstance(move, nn.PixelShuffle) else 4
    graph = quantised(nn.Sequential(conv(), nn.ReLU(), move, conv(channels)))
    _, *rest = of(graph, "quantize_per_tensor")
    assert rest[0].args[0].name == "relu"
    assert len({grid(node) for node in rest}) == 1
    assert is_dequantised(of(graph, "conv2d")[1].args[0])


def test_what_is_concatenated_has_one_scale():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = conv(), conv(), conv(8)

        def forward(self, x):
            return self.last(torch.cat([self.left(x), F.max_pool2d(F.relu(self.right(3 * x)), 3, 1, 1)], 1))

    model = Net()
    graph = quantised(model)
    assert int8_values(graph) == ["x", "conv2d", "mul", "relu", "max_pool2d", "cat"]
    _, of_left, of_product, *others = map(grid, of(graph, "quantize_per_tensor"))
    assert of_product != of_left and set(others) == {of_left}
    assert noise(graph, model) < 0.03


def test_moving_float_values_stays_float():
    graph = quantised(nn.Sequential(nn.MaxPool2d(2), conv()))
    assert int8_values(graph) == ["max_pool2d"]


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), lambda x: x.mean((2, 3), keepdim=True), nn.AdaptiveAvgPool2d(2)])
def test_an_average_over_the_map_reads_and_makes_int8_of_its_own_scale(pool):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = conv(), conv(kernel=1)

        def forward(self, x):
            return self.fc(pool(self.conv(x)))

    graph = quantised(Net())
    whole = getattr(pool, "output_size", 1) == 1
    assert len(int8_values(graph)) == (3 if whole else 2)
    assert len({grid(node) for node in of(graph, "quantize_per_tensor")}) == len(int8_values(graph))


@pytest.mark.parametrize("last", [nn.Identity(), nn.ReLU(), nn.PixelShuffle(2), nn.Flatten()], ids=lambda a: type(a).__name__)
def test_the_result_of_the_model_is_not_rounded(last):
    graph = quantised(nn.Sequential(conv(), conv(), last))
    assert int8_values(graph) == ["input_1", "conv2d"]


def test_a_result_that_a_layer_reads_too_is_not_rounded():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = conv(), conv()

        def forward(self, x):
            y = self.first(x)
            return y, self.second(y)

    graph = quantised(Net())
    returned = graph.graph.output_node().args[0]
    assert [node.name for node in returned] == ["conv2d", "conv2d_1"]
    assert is_dequantised(returned[1].args[0])


def test_layers_that_no_rule_matches_stay_float():
    model = nn.Sequential(conv(), conv(), conv(), conv())
    graph = quantised(model, Rule("1"), Rule("2"))
    assert int8_values(graph) == ["conv2d", "conv2d_1"]
    assert [is_dequantised(node.args[0]) for node in of(graph, "conv2d")] == [False, True, True, False]
    assert [node.args[1].op for node in of(graph, "conv2d")] == ["get_attr", "call_function", "call_function", "get_attr"]
    assert torch.equal(graph.get_parameter("3.weight"), model[3].weight)


def parts(graph: fx.GraphModule, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Levels, scales, zero points and axis of a layer's weight."""
    levels, scales, zero_points, axis, *rest = node.args[1].args
    assert rest == [-127, 127, torch.int8]
    tensors = [graph.get_buffer(str(part.target)) for part in (levels, scales, zero_points)]
    assert [tensor.dtype for tensor in tensors] == [torch.int8, torch.float32, torch.int64]
    return (*tensors, axis)


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(bits=4), Rule(weights="sp2", bits=4), Rule(weights="msq", bits=4), Rule(scale="layer")], ids=str
)
def test_weights_are_those_of_the_codebook_with_batch_norm_folded(rule):
    layer, norm = conv(4, 6, bias=False), trained_norm(6)
    model = nn.Sequential(layer, norm).eval()
    folded = nn.utils.fuse_conv_bn_eval(layer, norm)
    schemes = quantizers.row_schemes(layer.weight, rule.weights, rule.bits, rule.sp2_rows)
    scales = quantizers.fit_scales(folded.weight, schemes, rule.bits, rule.scale)
    want = quantizers.project(folded.weight, scales, schemes, rule.bits)
    graph = quantised(model, rule)
    (node,) = of(graph, "conv2d")
    levels, scales, zero_points, axis = parts(graph, node)
    assert axis == 0 and not zero_points.any()
    assert torch.equal(levels, want.levels) and torch.equal(scales, want.scales)
    assert torch.equal(graph.get_parameter(str(node.args[2].target)), folded.bias)


def test_the_last_rule_for_a_layer_holds():
    graph = quantised(nn.Sequential(conv(), conv()), Rule(bits=8), Rule("1", weights="sp2", bits=4))
    first, second = (parts(graph, node)[0] for node in of(graph, "conv2d"))
    assert first.abs().max() > 8
    assert set(second.abs().unique().tolist()) <= {0, 1, 2, 4, 5, 6, 8}


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_scales_along_its_second_axis(groups):
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, 2, groups=groups))
    graph = quantised(model)
    levels, scales, _, axis = parts(graph, *of(graph, "conv_transpose2d"))
    assert axis == 1 and scales.shape == (6 // groups,) and levels.shape == model[0].weight.shape
    assert noise(graph, model) < 0.03


def test_a_layer_that_is_used_twice_has_its_levels_once():
    layer = conv()
    graph = quantised(nn.Sequential(layer, nn.ReLU(), layer))
    first, second = of(graph, "conv2d")
    assert parts(graph, first)[0] is parts(graph, second)[0]
    assert first.args[1] is not second.args[1]


def test_a_model_that_is_one_layer_is_quantised():
    model = nn.Linear(4, 6)
    graph = quantised(model, shape=(2, 4))
    assert int8_values(graph) == ["input_1"] and noise(graph, model, (2, 4)) < 0.03


def test_zeros_of_a_pruned_layer_stay_zeros():
    model = nn.Sequential(conv(8), conv(8))
    keep = torch.rand(model[1].weight.shape) < 0.2
    with torch.no_grad():
        model[1].weight.mul_(keep)
    graph = quantised(model, Rule("*", "msq", 4), shape=(1, 8, 6, 6))
    assert (parts(graph, of(graph, "conv2d")[1])[0][~keep] == 0).all()


def test_progress_tells_how_many_images_are_done():
    said = []
    with quiet():
        images = [torch.rand(EXAMPLE) for _ in range(4)]
        quantise(nn.Sequential(conv()).eval(), images[0], [Rule()], images, lambda *step: said.append(step))
    assert [fraction for message, fraction in said if message == "calibrating activations"] == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("nose.*"), r"'nose\.\*' matches no layer"),
        (Rule("2"), r"'2' matches no layer"),
        (Rule(bits=9), "9 bits: choose 2 to 8"),
        (Rule(weights="magic"), "'magic'.*fixed, power_of_two"),
        (Rule(weights="sp2", bits=6), r"sp2 weights of 6 bits .* choose at most 5 bits for '\*'"),
        (Rule(weights="msq", bits=6), "msq weights of 6 bits .* choose at most 5 bits"),
        (Rule(weights="power_of_two", bits=5), "power_of_two weights of 5 bits .* choose at most 4 bits"),
        (Rule("1", weights="msq", bits=4, sp2_rows=[4]), "Layer 1 .* rows 0 to 3"),
    ],
    ids=str,
)
def test_a_mistake_in_a_rule_is_one_sentence(rule, words):
    with pytest.raises(UserError, match=words) as caught:
        quantised(nn.Sequential(conv(), conv(), nn.ReLU()), rule)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused():
    model = nn.Sequential(conv())
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="Layer 0 has weights that are not finite numbers"):
        quantised(model)


def test_values_that_overflow_on_an_image_are_refused_by_its_number():
    model = nn.Sequential(conv(), nn.ReLU(), conv())
    images = [torch.rand(EXAMPLE), torch.full(EXAMPLE, torch.inf)]
    with pytest.raises(UserError, match="calibration image 2"), quiet():
        quantise(model.eval(), images[0], [Rule()], images)
