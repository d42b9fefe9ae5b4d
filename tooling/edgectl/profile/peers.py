"""Other runtimes, each in a process of its own that idles until it is told to do a few runs."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from edgectl.profile.workload import load_workload

_SECONDS_TO_END = 5.0
_REST_SECONDS = 0.02
_MOST_RESTS = 50


class PeerFailure(Exception):
    """A runtime cannot convert or run the network; the message is the first line of its reason."""


class Peer(ABC):
    """A network in a runtime. The constructor converts it, and keeps files in `folder`.

    Attributes:
        name: how the user names it.
        needs: the modules that must be importable.
        extra: the extra of edgectl that installs them.
    """

    name: ClassVar[str]
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


class _OnnxRuntime(Peer):
    """onnxruntime, its CPU execution provider; inputs and outputs are bound, so that no run copies them."""

    name = "onnxruntime"
    needs = ("onnxruntime", "onnx", "onnxscript")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        model = str(_onnx(module, example, folder))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input(self._session.get_inputs()[0].name, example.numpy())
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)

    def run(self) -> Any:
        self._session.run_with_iobinding(self._binding)
        return self._binding

    def outputs(self, result: Any) -> list[np.ndarray]:
        return list(result.copy_outputs_to_cpu())


class _OpenVino(Peer):
    """OpenVINO's CPU plugin, in float32, one stream."""

    name = "openvino"
    needs = ("openvino", "onnx", "onnxscript")

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import openvino  # noqa: PLC0415

        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        self._model = openvino.Core().compile_model(str(_onnx(module, example, folder)), "CPU", options)
        self._request = self._model.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(example.numpy()))

    def run(self) -> Any:
        self._request.start_async()
        self._request.wait()
        return self._request

    def outputs(self, result: Any) -> list[np.ndarray]:
        return [np.array(result.get_output_tensor(i).data) for i in range(len(self._model.outputs))]


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

        network = onnx.load(str(_onnx(module, example, folder)))
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


class _LiteRt(Peer):
    """LiteRT with its XNNPACK delegate, converted by litert-torch."""

    name = "litert-xnnpack"
    needs = ("litert_torch", "ai_edge_litert")
    extra = "litert"

    def __init__(self, module: nn.Module, example: torch.Tensor, threads: int, folder: Path) -> None:
        import litert_torch  # noqa: PLC0415
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        model = str(folder / "model.tflite")
        litert_torch.convert(module, (example,)).export(model)
        self._interpreter = Interpreter(model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], example.numpy())

    def run(self) -> Any:
        self._interpreter.invoke()

    def outputs(self, result: Any) -> list[np.ndarray]:
        return [self._interpreter.get_tensor(output["index"]) for output in self._interpreter.get_output_details()]


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (_OnnxRuntime, _OpenVino, _Ncnn, _Mnn, _LiteRt, _Torch)}


def arrays(result: Any) -> list[np.ndarray]:
    """A module's result, one tensor or several, as arrays."""
    return [tensor.detach().numpy() for tensor in (result if isinstance(result, tuple | list) else [result])]


def _onnx(module: nn.Module, example: torch.Tensor, folder: Path) -> Path:
    """The network as ONNX, written by the first who asks and shared by the others."""
    path = folder / "model.onnx"
    if not path.is_file():
        torch.onnx.export(module, (example,), str(path), dynamo=True, external_data=False, verbose=False)
    return path


@dataclass(frozen=True)
class Job:
    """What a worker prepares.

    Attributes:
        model: the recipe or Python file.
        state: the tensors that every row shares, as torch saved them: (weights, input). The file's own may be random.
        threads: to run on.
        folder: for the files that the runtimes write.
    """

    model: Path
    state: Path
    threads: int
    folder: Path


class Worker:
    """A peer in a process of its own."""

    def __init__(self, peer: str, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, peer, job), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self) -> list[np.ndarray]:
        """Waits for the conversion; returns the outputs of a first run.

        Raises:
            PeerFailure: the peer cannot convert or run the network.
        """
        return self._answer()

    def round(self, warmup: int, runs: int) -> list[int]:
        """Does `warmup` runs, then `runs` timed ones; their wall times in ns. Waits until the runtime's threads rest.

        Raises:
            PeerFailure: a run failed.
        """
        self._pipe.send((warmup, runs))
        return self._answer()

    def close(self) -> None:
        """Ends the process: it ends by itself when nobody is left to talk to, unless it hangs."""
        self._pipe.close()
        self._process.join(_SECONDS_TO_END)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise PeerFailure(f"its process ended with code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise PeerFailure(answer)
        return answer


def _serve(pipe: Connection, peer: str, job: Job) -> None:
    """The worker's process: prepares, answers with the first outputs, then does round after round until it is ended."""
    _silence()
    try:
        _prepare_and_run(pipe, peer, job)
    except EOFError:
        return
    except (Exception, SystemExit) as error:
        lines = (line.strip() for line in str(error).splitlines())
        pipe.send(next((line for line in lines if line), type(error).__name__))


def _prepare_and_run(pipe: Connection, name: str, job: Job) -> None:
    module = load_workload(job.model).module
    weights, example = torch.load(job.state, weights_only=True)
    module.load_state_dict(weights)
    peer = PEERS[name](module, example, job.threads, job.folder)
    pipe.send(peer.outputs(peer.run()))
    while True:
        warmup, runs = pipe.recv()
        for _ in range(warmup):
            peer.run()
        times = []
        for _ in range(runs):
            begin = time.perf_counter_ns()
            peer.run()
            times.append(time.perf_counter_ns() - begin)
        _rest()
        pipe.send(times)


def _rest() -> None:
    """Waits until this process's threads have stopped spinning for work, which would take time from the next row."""
    for _ in range(_MOST_RESTS):
        before = time.process_time()
        time.sleep(_REST_SECONDS)
        if time.process_time() - before < _REST_SECONDS / 10:
            return


def _silence() -> None:
    """Sends all that this process writes, converters in C++ included, to nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
