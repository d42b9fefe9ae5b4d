"""The reference's integer arithmetic, by hand and against float32 networks; its float operations against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgectl.compress.quantizers import quantise
from edgectl.lowering import ir
from edgectl.lowering.partitioner import read_graph
from edgectl.lowering.read import PRESERVED
from edgectl.lowering.reference import run

RELU = ir.Activation(ir.Act.CLAMP, 0.0, np.inf)


def int8(values, shape=None):
    array = np.array(values, np.int8)
    return array if shape is None else array.reshape(shape)


def only(node, *inputs, **options):
    """The output of one operation."""
    read = [value for value in ir.operands(node) if value.data is None]
    return run(ir.Graph(read, [node.output], [node]), list(inputs), **options)[0]


def one_by_one(levels, scales, bias, x, y, **rest):
    """A 1x1 convolution of two channels."""
    levels = np.array(levels, np.int8)[:, :, None, None]
    scales = np.array(scales, np.float32)
    weight = levels * scales[:, None, None, None]
    bias = np.array(bias, np.float32)
    return ir.Conv(name="conv", inputs=[x], output=y, weight=weight, bias=bias, quantised=ir.Levels(levels, scales), **rest)


def image(name, channels, quant=None, size=(1, 1)):
    return ir.Value(name, (1, channels, *size), quant=quant)


def test_quantising_rounds_ties_to_even_and_clamps():
    y = ir.Value("y", (8,), quant=ir.Quant(0.5, 3))
    x = np.array([0.25, 0.75, -0.25, -0.75, 1.0, 100.0, -100.0, 0.0], np.float32)
    node = ir.Quantize(name="q", inputs=[ir.Value("x", (8,))], output=y)
    assert only(node, x).tolist() == [3, 5, 3, 1, 5, 127, -128, 3]


def test_dequantising_is_the_float32_product():
    node = ir.Dequantize(name="d", inputs=[ir.Value("x", (3,), quant=ir.Quant(0.1, -5))], output=ir.Value("y", (3,)))
    got = only(node, int8([-128, -5, 127]))
    assert got.dtype == np.float32 and got.tolist() == [np.float32(k) * np.float32(0.1) for k in (-123, 0, 132)]


def test_a_convolution_by_hand():
    x, y = image("x", 2, ir.Quant(0.5, 10)), image("y", 2, ir.Quant(0.25, -4))
    node = one_by_one([[3, -2], [1, 1]], [0.125, 0.5], [0.3, -0.3], x, y)
    # q - z = 10, -6: sums 42 and 4; biases 0.3 / 0.0625 = 4.8 -> 5 and -0.3 / 0.25 = -1.2 -> -1
    # times 0.0625 / 0.25 and 0.25 / 0.25: 11.75 -> 12 and 3
    assert only(node, int8([20, 4], (1, 2, 1, 1))).flatten().tolist() == [8, -1]


def test_a_convolution_to_float32_by_hand():
    x = image("x", 2, ir.Quant(0.5, 10))
    node = one_by_one([[3, -2], [1, 1]], [0.125, 0.5], [0.3, -0.3], x, image("y", 2))
    assert only(node, int8([20, 4], (1, 2, 1, 1))).flatten().tolist() == [47 * 0.0625, 3 * 0.25]


@pytest.mark.parametrize(
    ("act", "after", "expected"),
    [
        (ir.IDENTITY, False, [-8, 12]),
        (RELU, False, [0, 12]),
        (ir.Activation(ir.Act.CLAMP, 0.0, 6.0), False, [0, 6]),
        (ir.Activation(ir.Act.LEAKY_RELU, 0.25), False, [-2, 12]),
        (RELU, True, [-3, 12]),
    ],
)
def test_residuals_are_added_before_or_after_the_activation(act, after, expected):
    residual = image("r", 2, ir.Quant(0.5, 1))
    x, y = image("x", 2, ir.Quant(1.0, 0)), image("y", 2, ir.Quant(1.0, 0))
    node = one_by_one([[1, 0], [0, 1]], [1, 1], [0, 0], x, y, act=act, residual=residual, residual_after_act=after)
    # sums -5 and 11, residuals 0.5 (-6) and 0.5 (2)
    assert only(node, int8([-5, 11], (1, 2, 1, 1)), int8([-5, 3], (1, 2, 1, 1))).flatten().tolist() == expected


def test_results_round_ties_to_even_and_clamp():
    x, y = image("x", 2, ir.Quant(0.5, 0)), image("y", 2, ir.Quant(1.0, 7))
    node = one_by_one([[1, 0], [0, 64]], [1, 1], [0, 0], x, y)
    assert only(node, int8([5, 100], (1, 2, 1, 1))).flatten().tolist() == [9, 127]
    assert only(node, int8([-3, -100], (1, 2, 1, 1))).flatten().tolist() == [5, -128]


def test_padding_is_the_zero_point():
    x = image("x", 1, ir.Quant(1.0, 9), (2, 2))
    levels = np.ones((1, 1, 3, 3), np.int8)
    node = ir.Conv(
        name="conv",
        inputs=[x],
        output=image("y", 1, None, (2, 2)),
        weight=levels.astype(np.float32),
        bias=np.zeros(1, np.float32),
        padding=(1, 1),
        quantised=ir.Levels(levels, np.ones(1, np.float32)),
    )
    assert (only(node, int8([10, 11, 12, 13], (1, 1, 2, 2))) == 10).all()


def quantised_layer(layer, example, *, weights="fixed", bits=8, to_int8=True):
    """(IR node of a float layer quantised, its int8 input, the float input and output under the same quantised weights)."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    form = layer.weight.detach()
    if transposed:
        a, b, *kernel = form.shape
        form = form.reshape(layer.groups, a // layer.groups, b, *kernel).transpose(1, 2).reshape(-1, a // layer.groups, *kernel)
    quantised = quantise(form, weights, bits)
    levels, scales = quantised.levels.to(torch.int8).numpy(), quantised.scales.numpy()
    x_quant = ir.Quant(float(example.max() - example.min()) / 250, -20)
    q = np.clip(np.rint(example.numpy() / x_quant.scale) + x_quant.zero_point, -128, 127).astype(np.int8)
    x = torch.from_numpy((q.astype(np.float32) - x_quant.zero_point) * np.float32(x_quant.scale))
    with torch.no_grad():
        plain = quantised.weight()
        if transposed:
            f, c, *kernel = plain.shape
            plain = plain.reshape(layer.groups, f // layer.groups, c, *kernel).transpose(1, 2).reshape(layer.weight.shape)
        layer.weight.copy_(plain)
        want = layer(x)
    low, high = min(float(want.min()), 0.0), max(float(want.max()), 0.0)
    step = (high - low) / 200
    y_quant = ir.Quant(step, round(-100 - low / step)) if to_int8 else None
    common = {
        "name": "layer",
        "inputs": [ir.Value("x", tuple(x.shape), quant=x_quant)],
        "output": ir.Value("y", tuple(want.shape), quant=y_quant),
        "weight": layer.weight.detach().numpy(),
        "bias": layer.bias.detach().numpy(),
        "quantised": ir.Levels(levels, scales),
    }
    if isinstance(layer, nn.Linear):
        return ir.Linear(**common), q, want.numpy()
    for name in ("stride", "padding", "dilation", "groups"):
        common[name] = getattr(layer, name)
    return ir.Conv(**common, transposed=transposed), q, want.numpy()


LAYERS = {
    "plain": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 7, 9)),
    "strided": (lambda: nn.Conv2d(6, 8, (3, 5), stride=2, padding=(1, 2)), (1, 6, 8, 9)),
    "dilated": (lambda: nn.Conv2d(4, 5, 3, padding=2, dilation=2), (1, 4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (1, 6, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=6), (1, 6, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), (1, 6, 5, 4)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(6, 8, (2, 3), stride=2, dilation=2, groups=2), (2, 6, 4, 5)),
    "linear": (lambda: nn.Linear(12, 7), (3, 12)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("to_int8", [True, False])
def test_an_int8_layer_is_its_float_layer_within_the_rounding_of_bias_and_result(name, to_int8):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    node, q, want = quantised_layer(make(), torch.randn(shape), to_int8=to_int8)
    got = only(node, q)
    quant = node.output.quant
    bias = 0.5 * node.inputs[0].quant.scale * float(node.quantised.scales.max())
    if quant is not None:
        got = (got.astype(np.float32) - quant.zero_point) * quant.scale
        bias += 0.5 * quant.scale
    assert got.shape == want.shape and np.abs(got - want).max() <= bias * 1.001 + 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_shifts_and_additions_give_the_same_integers(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    node, q, _ = quantised_layer(make(), torch.randn(shape), weights="sp2", bits=4, to_int8=True)
    assert np.array_equal(only(node, q, shift_add=True), only(node, q))


def test_levels_of_three_powers_cannot_be_computed_by_shifts():
    node = one_by_one([[7, 0]], [1], [0], image("x", 2, ir.Quant(1.0, 0)), image("y", 1))
    with pytest.raises(ValueError, match="7 is not a sum of at most two powers of two"):
        only(node, int8([1, 1], (1, 2, 1, 1)), shift_add=True)


def test_the_mean_of_a_map_is_rounded_once():
    quant, to = ir.Quant(0.5, -3), ir.Quant(0.25, 5)
    x = int8([[-3, -2, 0, 4], [127, 127, 127, 126]], (1, 2, 2, 2))
    # sums of q - z: 11 and 519; times 0.5 / (0.25 * 4) = 0.5: 5.5 -> 6 and 259.5 -> clamped
    for shape in ((1, 2, 1, 1), (1, 2)):
        node = ir.AdaptiveAvgPool(name="mean", inputs=[image("x", 2, quant, (2, 2))], output=ir.Value("y", shape, quant=to))
        got = only(node, x)
        assert got.shape == shape and got.flatten().tolist() == [11, 127]


def test_operations_that_move_values_keep_them():
    quant = ir.Quant(0.1, 7)
    random = np.random.default_rng(0)
    x = random.integers(-128, 128, (1, 4, 6, 6)).astype(np.int8)
    value = image("x", 4, quant, (6, 6))
    as_float = torch.from_numpy(x.astype(np.float32))

    def same(node, want, *inputs):
        assert np.array_equal(only(node, *(inputs or (x,))), want.numpy().astype(np.int8))

    def out(*shape):
        return ir.Value("y", shape, quant=quant)

    pool = ir.Pool(name="p", op="max", inputs=[value], output=out(1, 4, 3, 3), kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    same(pool, F.max_pool2d(as_float, 3, 2, 1))
    same(ir.PixelShuffle(name="s", inputs=[value], output=out(1, 1, 12, 12), factor=2), F.pixel_shuffle(as_float, 2))
    same(ir.View(name="v", inputs=[value], output=out(1, 144)), as_float.reshape(1, 144))
    larger = ir.Upsample(name="u", mode="nearest", inputs=[value], output=out(1, 4, 12, 15), ratio=(0.5, 0.4))
    same(larger, F.interpolate(as_float, (12, 15), mode="nearest"))
    other = image("o", 4, quant, (6, 6))
    joined = ir.Concat(name="c", inputs=[value, other], output=out(1, 8, 6, 6), axis=1)
    same(joined, torch.cat([as_float, -as_float.clamp(min=-127)], 1), x, -np.maximum(x, -127))
    with pytest.raises(ValueError, match="between different scales"):
        only(replace(joined, output=ir.Value("y", (1, 8, 6, 6), quant=ir.Quant(0.2, 7))), x, x)


def test_a_chain_from_float_to_float():
    x, y = image("x", 2), image("y", 2)
    qx, qy = image("qx", 2, ir.Quant(0.02, 0)), image("qy", 2, ir.Quant(0.05, -128))
    conv = one_by_one([[64, 64], [-127, 5]], [0.01, 0.01], [0.5, 0.1], qx, qy, act=RELU)
    nodes = [
        ir.Quantize(name="q", inputs=[x], output=qx),
        conv,
        ir.Dequantize(name="d", inputs=[qy], output=y),
    ]
    values = np.array([0.7, 1.3], np.float32).reshape(1, 2, 1, 1)
    (got,) = run(ir.Graph([x], [y], nodes), [values])
    want = np.maximum(conv.weight[:, :, 0, 0] @ values.flatten() + conv.bias, 0)
    assert np.abs(got.flatten() - want).max() <= 0.025 + 0.01 * (1.28 + 1.28)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.pools = nn.ModuleList([nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)])
        self.acts = nn.ModuleList([nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.ReLU6()])
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Linear(4, 5)
        self.register_buffer("gain", torch.randn(4, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.left(x) + x) + self.right(x)
        x = torch.cat([pool(x) for pool in self.pools], 1)
        for act in self.acts:
            x = act(x)
        up = F.interpolate(self.shuffle(x), scale_factor=2.0, mode="bilinear")
        up = F.interpolate(up, scale_factor=1.5, mode="nearest") * self.gain
        return up, torch.softmax(self.head(F.adaptive_avg_pool2d(up, 1).flatten(1)), -1)


def test_float_operations_are_pytorchs():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(1, 3, 21, 18)
    table = torch.export.default_decompositions()
    for op in PRESERVED:
        table.pop(op, None)
    graph = read_graph(torch.export.export(net, (x,)).run_decompositions(table))
    with torch.no_grad():
        want = net(x)
    got = run(graph, [x.numpy()])
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-6)


def test_what_the_device_does_not_have_is_refused():
    quant = ir.Quant(1.0, 0)
    x, y = image("x", 2, quant), image("y", 2, quant)
    q = int8([1, 2], (1, 2, 1, 1))
    conv = one_by_one([[1, 0], [0, 1]], [1, 1], [0, 0], x, y)
    for node, message in [
        (replace(conv, act=ir.Activation(ir.Act.SILU)), "silu is no activation of an integer operation"),
        (replace(conv, quantised=None), "its weights are not quantised"),
        (replace(conv, bias=np.full(2, 3e9, np.float32)), "exceed 32 bits"),
        (ir.Unary(name="act", inputs=[x], output=y, act=RELU), "no operation on int8"),
        (replace(conv, output=image("y", 3, quant)), r"y is int8 \(1, 3, 1, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            only(node, q)
    with pytest.raises(ValueError, match="x is int8"):
        only(conv, q.astype(np.float32))
