"""The training loop, on Lightning Fabric: CPU, one GPU or many, any precision; resumed, it goes on as if never stopped."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgectl.compress.layers import prunable_layers
from edgectl.compress.strategy import Strategy
from edgectl.errors import UserError
from edgectl.quiet import quiet
from edgectl.recipe import TrainSpec
from edgectl.tasks.task import Progress, Score, Task
from edgectl.training.batches import Order, batches
from edgectl.training.folder import CHECKPOINT, LOGS, RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter

_SAVE_SECONDS = 30.0  # between checkpoints
_LOG_STEPS = 20  # between entries of the log
_SCORES = 5  # of a run, the last one included


@dataclass(frozen=True)
class Hardware:
    """What to train on.

    Attributes:
        accelerator: `auto`, `cpu` or `gpu`.
        devices: how many of them, or processes on the CPU.
        precision: Fabric's name: `32-true`, `bf16-mixed` or `16-mixed`.
        workers: threads that make batches, in each process.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    workers: int = 1

    def launch(self) -> Fabric:
        """Starts the processes and returns this one's Fabric. Raises UserError where the machine or the package is missing."""
        try:
            from lightning_fabric import Fabric  # noqa: PLC0415
        except ImportError as error:
            raise UserError("Training needs more packages: pip install 'edgectl[train]'.") from error
        try:
            with quiet():
                fabric = Fabric(
                    accelerator=self.accelerator,
                    devices=self.devices,
                    precision=self.precision,  # type: ignore[arg-type]
                    strategy="ddp" if self.devices > 1 else "auto",
                )
                fabric.launch()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"Training cannot use {self.devices} x {self.accelerator} in {self.precision}: {error}") from error
        return fabric


@dataclass
class Training:
    """A model in training, and all that training it needs. `run` takes it to its end.

    Attributes:
        model: on Fabric's device.
        strategies: those that compress it, made from the model as it is now.
        teacher: what to distil from, on the same device, or None; `distil` is the factor of that loss.
        step, seconds: done so far, of all runs together.
        before: the score of the model before it was compressed, or None.
        history: what was scored on the way: `step`, `loss`, `score`.
    """

    fabric: Fabric
    task: Task
    model: nn.Module
    spec: TrainSpec
    data: Path
    order: Order
    folder: RunFolder
    strategies: Sequence[Strategy] = ()
    teacher: nn.Module | None = None
    distil: float = 0.0
    step: int = 0
    seconds: float = 0.0
    before: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.order.steps(self.spec.epochs)

    def run(self, examples: Any, workers: int, progress: Progress) -> Score:
        """Trains from where it is to the last step, and returns the last score.

        Raises:
            UserError: the data is wrong, or the loss is no finite number any more; the last checkpoint is whole.
            KeyboardInterrupt: after a checkpoint of the step that was in flight.
        """
        self.optimiser = optimiser(self.model, self.spec)
        self._restore()
        with quiet():
            wrapped, opt = self.fabric.setup(self.model, self.optimiser)
        begin, saved, losses = time.monotonic() - self.seconds, time.monotonic(), _Mean()
        score: Score | None = None
        with _interrupts() as interrupted, self._log() as log:
            for inputs, target in batches(examples, self.order, self.step, self.steps, workers):
                losses.add(self._update(wrapped, opt, inputs, target))
                self.step += 1
                self.seconds = time.monotonic() - begin
                stop = self._any(interrupted())
                scored = self.step * _SCORES // self.steps > (self.step - 1) * _SCORES // self.steps
                if not (stop or scored or self.step % _LOG_STEPS == 0):
                    continue
                loss = losses.take()
                if not math.isfinite(loss):
                    raise UserError(
                        f"The loss is {loss} at step {self.step}: lower `rate` under [train]; "
                        f"{self.folder.path / CHECKPOINT} is from before that, where there is one."
                    )
                facts = self.facts()
                if log:
                    for name, value in {"loss": loss, "rate": learning_rate(self.step, self.steps, self.spec), **facts}.items():
                        log.add_scalar(name, value, self.step)
                progress(self._line(loss, facts, score), self.step / self.steps)
                if scored:
                    score = score_model(self.model, self.task, self.data, progress)
                    self.history.append({"step": self.step, "loss": loss, "score": score.value})
                    if log:
                        log.add_scalar(score.metric, score.value, self.step)
                if stop or scored or time.monotonic() - saved > _SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        return score or score_model(self.model, self.task, self.data, progress)

    def save(self) -> None:
        """Writes a checkpoint, from the first process."""
        if self.fabric.is_global_zero:
            self.folder.save(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "before": self.before,
                    "history": self.history,
                    "strategies": [strategy.state_dict() for strategy in self.strategies],
                    "model": self.model.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                }
            )

    def _restore(self) -> None:
        state = self.folder.load()
        if state is None:
            self.save()  # from now on the folder is this run's
            return
        self.step, self.seconds = state["step"], state["seconds"]
        self.before, self.history = state["before"], state["history"]
        for strategy, own in zip(self.strategies, state["strategies"], strict=True):
            strategy.load_state_dict(own)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _update(self, model: nn.Module, opt: Any, inputs: Tensor, target: Any) -> Tensor:
        """One step of the optimiser; returns the loss, detached."""
        torch.manual_seed((self.spec.seed << 40) + (self.step << 8) + self.fabric.global_rank)
        for group in opt.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.spec)
        self.model.train()
        inputs, target = self.fabric.to_device((inputs, target))
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        output = model(inputs)
        loss = self.task.loss(output, target)
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                wanted = self.teacher(inputs)
            loss = loss + self.distil * self.task.distillation(output, wanted)
        whole = loss
        for strategy in self.strategies:
            whole = whole + strategy.penalty()
        opt.zero_grad(set_to_none=True)
        self.fabric.backward(whole)
        opt.step()
        for strategy in self.strategies:
            strategy.update(self.step + 1)
        return loss.detach()

    def _any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.fabric.world_size == 1:
            return flag
        told = self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum")
        return bool(told)

    def facts(self) -> dict[str, float]:
        """The figures of all strategies, by name."""
        return {name: value for strategy in self.strategies for name, value in strategy.facts().items()}

    def _line(self, loss: float, facts: Mapping[str, float], score: Score | None) -> str:
        left = self.seconds / self.step * (self.steps - self.step) / 60
        figures = [f"{name} {value:.2g}" for name, value in facts.items()]
        last = [str(score)] if score else []
        return ", ".join([f"step {self.step} of {self.steps}", f"loss {loss:.4f}", *figures, f"{left:.0f} min left", *last])

    @contextlib.contextmanager
    def _log(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard's log, in the first process and where it is installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        except ImportError:
            yield None
            return
        if not self.fabric.is_global_zero:
            yield None
            return
        with SummaryWriter(str(self.folder.path / LOGS), purge_step=self.step) as log:
            yield log


def score_model(model: nn.Module, task: Task, data: Path, progress: Progress) -> Score:
    """Scores a model in eval mode, where it is, and leaves it in the mode that it was in."""
    training, device = model.training, next(model.parameters()).device
    model.eval()

    def predict(inputs: Tensor) -> Tensor | list[Tensor]:
        with torch.no_grad():
            output = model(inputs.to(device))
        return output.cpu() if isinstance(output, Tensor) else [each.cpu() for each in output]

    try:
        return task.score(predict, data, progress=progress)
    finally:
        model.train(training)


def optimiser(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or Adam; weights decay, biases and the parameters of batch norm do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("The model has no parameters to train.")
    if spec.optimiser == "adam":
        return torch.optim.AdamW(groups, lr=spec.rate)
    return torch.optim.SGD(groups, lr=spec.rate, momentum=spec.momentum, nesterov=spec.momentum > 0)


def learning_rate(step: int, steps: int, spec: TrainSpec) -> float:
    """The rate of a step from 0 on: up to `spec.rate` in a line over the warm-up, then down to zero as a cosine."""
    warm = round(steps * spec.warmup)
    if step < warm:
        return spec.rate * (step + 1) / (warm + 1)
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _Mean:
    """The mean of losses since it was last taken, summed where they are: no wait for a GPU until then."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, loss: Tensor) -> None:
        self._sum = loss if self._sum is None else self._sum + loss
        self._count += 1

    def take(self) -> float:
        mean = math.nan if self._sum is None else float(self._sum) / self._count
        self._sum, self._count = None, 0
        return mean


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within it an interrupt or a termination only says so; a second one interrupts at once."""
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        del frame
        if told:
            raise KeyboardInterrupt
        told.append(number)

    try:
        former = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody interrupts it
        yield lambda: False
        return
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def multiply_adds(model: nn.Module, example: Tensor) -> Mapping[str, int]:
    """Module path -> multiply-adds for one input, of every convolution and linear layer that runs on `example` [N, ...]."""
    counts: dict[str, int] = {}
    layers = prunable_layers(model)
    paths: dict[nn.Module, str] = {layer: path for path, layer in layers.items()}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        path = paths[layer]
        if isinstance(layer, nn.Linear):
            positions = output.numel() // layer.out_features
        else:
            positions = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output)[:, 0].numel()
        counts[path] = counts.get(path, 0) + layers[path].weight.numel() * positions // len(example)

    handles = [layer.register_forward_hook(count) for layer in layers.values()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return counts
