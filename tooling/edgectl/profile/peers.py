"""Other runtimes, in float32: how each converts and runs a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn


class PeerFailure(Exception):
    """A runtime cannot convert or run the network; the message is the first line of its reason."""


class Peer(ABC):
    """A network in a runtime. The constructor converts it, and keeps files in `folder`.

    Attributes:
        name: how the user names it.
        variant: what it computes in: "dense" is float32.
        needs: the modules that must be importable.
        extra: the extra of edgectl that installs them.
    """

    name: ClassVar[str]
    variant: ClassVar[str] = "dense"
    needs: ClassVar[tuple[str, ...]]
    extra: ClassVar[str] = "peers"

    @abstractmethod
    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None: ...

    @abstractmethod
    def run(self) -> Any:
        """One inference, which is what is timed; returns the outputs as the runtime holds them."""

    @abstractmethod
    def outputs(self, result: Any) -> list[np.ndarray]:
        """What `run` returned, as float32 arrays."""

    @classmethod
    def installed(cls) -> bool:
        """Whether all that it needs is there; nothing is imported."""
        return all(importlib.util.find_spec(module) for module in cls.needs)


class _Torch(Peer):
    """PyTorch, eager."""

    name = "torch"
    needs = ("torch",)

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        torch.set_num_threads(threads)
        self._module, self._example = module, example

    def run(self) -> Any:
        with torch.inference_mode():
            return self._module(self._example)

    def outputs(self, result: Any) -> list[np.ndarray]:
        return arrays(result)


class OnnxRuntime(Peer):
    """onnxruntime, its CPU execution provider; inputs and outputs are bound, so that no run copies them."""

    name = "onnxruntime"
    needs = ("onnxruntime", "onnx", "onnxscript")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        model = str(self._model(module, example, folder))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input(self._session.get_inputs()[0].name, example.numpy())
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        return onnx_model(module, example, folder)

    def run(self) -> Any:
        """Runs the session; returns the bound outputs."""
        self._session.run_with_iobinding(self._binding)
        return self._binding

    def outputs(self, result: Any) -> list[np.ndarray]:
        """The bound outputs."""
        return list(result.copy_outputs_to_cpu())


class OpenVino(Peer):
    """OpenVINO's CPU plugin, one stream; what the network does not quantise is float32."""

    name = "openvino"
    needs: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import openvino  # noqa: PLC0415

        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        self._compiled = openvino.Core().compile_model(str(self._model(module, example, folder)), "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(example.numpy()))

    def run(self) -> Any:
        """Starts the request and waits for it."""
        self._request.start_async()
        self._request.wait()
        return self._request

    def outputs(self, result: Any) -> list[np.ndarray]:
        """Copies: the request's own are written again."""
        return [np.array(result.get_output_tensor(i).data) for i in range(len(self._compiled.outputs))]

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        return onnx_model(module, example, folder)


class _Ncnn(Peer):
    """ncnn, converted by pnnx, with its half precision switched off."""

    name = "ncnn"
    needs = ("ncnn", "pnnx")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import ncnn  # noqa: PLC0415

        if example.shape[0] != 1:
            raise PeerFailure(f"it takes one image at a time, not a batch of {example.shape[0]}")
        traced = folder / "ncnn.pt"
        with torch.no_grad():
            self._shapes = [array.shape for array in arrays(module(example))]
            torch.jit.trace(module, example).save(str(traced))
        shape = ",".join(map(str, example.shape))
        pnnx = Path(sysconfig.get_path("scripts")) / "pnnx"
        subprocess.run([str(pnnx), traced.name, f"inputshape=[{shape}]", "fp16=0"], cwd=folder, check=True)
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, option, False)
        for load, file in ((self._net.load_param, "ncnn.ncnn.param"), (self._net.load_model, "ncnn.ncnn.bin")):
            if load(str(folder / file)) != 0:
                raise PeerFailure(f"it cannot load the {file} that pnnx wrote")
        self._input = ncnn.Mat(example[0].numpy()).clone()
        (self._input_name,) = self._net.input_names()
        self._names = self._net.output_names()

    def run(self) -> Any:
        extractor = self._net.create_extractor()
        extractor.input(self._input_name, self._input)
        found = [extractor.extract(name) for name in self._names]
        if any(code != 0 for code, _ in found):
            raise PeerFailure("it ran out of memory, or does not know an operation")
        return [mat for _, mat in found]

    def outputs(self, result: Any) -> list[np.ndarray]:
        # it has no batch dimension
        return [np.array(mat).reshape(shape) for mat, shape in zip(result, self._shapes, strict=True)]


class _Mnn(Peer):
    """MNN's CPU backend, in float32."""

    name = "mnn"
    needs = ("MNN", "_tools", "onnx", "onnxscript")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import _tools  # noqa: PLC0415  # MNN's converter; importing MNN.tools would install packages
        import MNN  # noqa: PLC0415
        import onnx  # noqa: PLC0415

        network = onnx.load(str(onnx_model(module, example, folder)))
        source, model = folder / "mnn.onnx", folder / "model.mnn"
        _spell_out_mish(network)
        onnx.save(network, str(source))
        arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(model), "--bizCode", "edgectl"]
        _tools.mnnconvert(["mnnconvert", *arguments])
        if not model.is_file():
            raise PeerFailure("its converter wrote nothing")
        self._mnn = MNN
        self._interpreter = MNN.Interpreter(str(model))
        self._session = self._interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        self._input = self._interpreter.getSessionInput(self._session)
        self._example = self._host(example.numpy())
        self._names = [output.name for output in network.graph.output]

    def run(self) -> Any:
        self._input.copyFrom(self._example)  # its memory is used for other maps during a run
        self._interpreter.runSession(self._session)
        return self._interpreter.getSessionOutputAll(self._session)

    def outputs(self, result: Any) -> list[np.ndarray]:
        found = []
        for name in self._names:
            shape = result[name].getShape()
            host = self._host(np.zeros(shape, np.float32))
            result[name].copyToHostTensor(host)
            found.append(np.array(host.getNumpyData()).reshape(shape))
        return found

    def _host(self, array: np.ndarray) -> Any:
        """A tensor of MNN's in the plain NCHW layout."""
        kind = self._mnn.Halide_Type_Float
        return self._mnn.Tensor(array.shape, kind, array, self._mnn.Tensor_DimensionType_Caffe)


def _spell_out_mish(network: Any) -> None:
    """Writes mish(x) as x tanh(softplus(x)) in an ONNX model: MNN does not know the operator."""
    from onnx import helper  # noqa: PLC0415

    nodes = []
    for node in network.graph.node:
        if node.op_type != "Mish":
            nodes.append(node)
            continue
        (x,), (y,) = node.input, node.output
        nodes += [
            helper.make_node("Softplus", [x], [f"{y}_softplus"]),
            helper.make_node("Tanh", [f"{y}_softplus"], [f"{y}_tanh"]),
            helper.make_node("Mul", [x, f"{y}_tanh"], [y]),
        ]
    del network.graph.node[:]
    network.graph.node.extend(nodes)


class LiteRt(Peer):
    """LiteRT with its XNNPACK delegate, converted by litert-torch."""

    name = "litert-xnnpack"
    needs = ("litert_torch", "ai_edge_litert")
    extra = "litert"

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        self._interpreter = Interpreter(str(self._model(module, example, folder)), num_threads=threads)
        self._interpreter.allocate_tensors()
        (taken,) = self._interpreter.get_input_details()
        self._interpreter.set_tensor(taken["index"], _quantised(example.numpy(), taken))

    def run(self) -> Any:
        """Runs the interpreter, which keeps the outputs."""
        self._interpreter.invoke()

    def outputs(self, result: Any) -> list[np.ndarray]:
        """The interpreter's outputs, int8 ones dequantised."""
        given = self._interpreter.get_output_details()
        return [_dequantised(self._interpreter.get_tensor(output["index"]), output) for output in given]

    def _model(self, module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
        import litert_torch  # noqa: PLC0415

        path = folder / "model.tflite"
        litert_torch.convert(module, (example,)).export(str(path))
        return path


def _quantised(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """float32 values as an input of LiteRT takes them: a quantised network may take int8."""
    if tensor["dtype"] != np.int8:
        return values
    scale, zero_point = tensor["quantization"]
    return np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)


def _dequantised(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    if tensor["dtype"] != np.int8:
        return values
    scale, zero_point = tensor["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


FLOAT_PEERS: tuple[type[Peer], ...] = (OnnxRuntime, OpenVino, _Ncnn, _Mnn, LiteRt, _Torch)


def arrays(result: Any) -> list[np.ndarray]:
    """A module's result, one tensor or several, as arrays."""
    return [tensor.detach().numpy() for tensor in (result if isinstance(result, tuple | list) else [result])]


def onnx_model(module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
    """The network as ONNX, written by the first who asks and shared by the others."""
    path = folder / "model.onnx"
    if not path.is_file():
        torch.onnx.export(module, (example,), str(path), dynamo=True, external_data=False, verbose=False)
    return path
