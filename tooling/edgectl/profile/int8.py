"""Other runtimes in int8: the runtime's own quantiser after training, static, per output channel, on one input.

All are calibrated on the input that is then run: what is compared is their speed. Their error is that of a quantisation
without care for accuracy, and says whether the network was converted right.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgectl.profile.peers import LiteRt, OnnxRuntime, OpenVino, Peer, onnx_model
from edgectl.recipe import Cpu

INT8 = "int8"


class OnnxRuntimeInt8(OnnxRuntime):
    """onnxruntime on a network of QuantizeLinear and DequantizeLinear pairs, which it fuses into integer operators."""

    name = "onnxruntime-int8"
    variant = INT8

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        return _onnx_int8(module, example, folder)


class OpenVinoInt8(OpenVino):
    """OpenVINO on the same file: it takes the pairs for its own FakeQuantize and runs int8 kernels between them."""

    name = "openvino-int8"
    variant = INT8
    needs = (*OpenVino.needs, "onnxruntime")

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        return _onnx_int8(module, example, folder)


class LiteRtInt8(LiteRt):
    """LiteRT with its XNNPACK delegate, quantised by litert-torch's own PT2E quantiser.

    Where the converter makes the network's own input and output int8, turning them from and to float32 is not timed.
    """

    name = "litert-int8"
    variant = INT8

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        import litert_torch  # noqa: PLC0415
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config  # noqa: PLC0415
        from litert_torch.quantize.quant_config import QuantConfig  # noqa: PLC0415

        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        converted = pt2e(module, example, quantizer, fold=False)
        path = folder / "model-int8.tflite"
        litert_torch.convert(converted, (example,), quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(path))
        return path


INT8_PEERS: tuple[type[Peer], ...] = (OnnxRuntimeInt8, OpenVinoInt8, LiteRtInt8)


def pt2e(module: nn.Module, example: torch.Tensor, quantizer: Any, *, fold: bool = True) -> nn.Module:
    """The network as a torchao `Quantizer` quantises it, calibrated on `example`.

    With `fold` weights are int8 constants; without it they are float32 and quantised in the graph, as litert-torch wants.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415

    from edgectl.lowering.compile import plain_weights  # noqa: PLC0415  # the processes of other runtimes do without

    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(plain_weights(module), (example,)).module(), quantizer)
        prepared(example)
        converted: nn.Module = convert_pt2e(prepared, fold_quantize=fold)
    return converted


def host_cpu() -> Cpu:
    """The processor that this is."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm64"
    return "x86-64-v4" if _has_avx512() else "x86-64"


def _has_avx512() -> bool:
    """What our kernels ask for: see IsaSupported in dispatch.cc."""
    wanted = {"avx512f", "avx512vl", "avx512dq", "avx512bw"}
    try:
        return wanted <= set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False


def _onnx_int8(module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
    """The network as quantised ONNX, written by the first who asks and shared by the others.

    As onnxruntime advises for each processor. On x86: uint8 activations, without which its kernels are as slow as float32
    ones, and weights of 7 bits, because the sums of two products in AVX2's vpmaddubsw saturate at 16. With VNNI they do not,
    and 7 bits cost no time. On Arm: int8 for both.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    class Once(CalibrationDataReader):
        """Gives the example, once."""

        def __init__(self, name: str) -> None:
            self._batches = iter([{name: example.numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    path = folder / "model-int8.onnx"
    if not path.is_file():
        import onnx  # noqa: PLC0415

        source = onnx_model(module, example, folder)
        (name,) = (taken.name for taken in onnx.load(str(source)).graph.input)
        arm = host_cpu() == "arm64"
        quantize_static(
            str(source),
            str(path),
            Once(name),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if arm else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not arm,
        )
    return path
