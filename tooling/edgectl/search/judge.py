"""How good a candidate is: the supernet's weights, pruned in one shot, and a short fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgectl.compress.prune import apply_masks, prune_oneshot
from edgectl.recipe import TrainSpec
from edgectl.search.held_out import SearchTask
from edgectl.search.space import Candidate
from edgectl.search.supernet import Supernet
from edgectl.tasks.task import Progress
from edgectl.training.batches import Order, batches
from edgectl.training.loop import learning_rate, optimiser, score_model

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Judge:
    """Scores candidates by what they inherit. All are fine-tuned on the same batches, so that they differ in nothing else.

    Args:
        fabric: what to train on.
        supernet: trained, on the CPU.
        task: of the space.
        data: its photographs.
        spec: of the fine-tuning.
        steps: of it; 0 for none.
    """

    def __init__(
        self,
        fabric: Fabric,
        supernet: Supernet,
        task: SearchTask,
        data: Path,
        spec: TrainSpec,
        steps: int,
        progress: Progress,
    ) -> None:
        self.fabric, self.supernet, self.task, self.data, self.spec, self.steps = fabric, supernet, task, data, spec, steps
        self.examples = task.examples(data, progress)
        self.order = Order(len(self.examples), min(spec.batch, len(self.examples)), spec.seed)

    def quality(self, candidate: Candidate, progress: Progress) -> float:
        """Y-PSNR in dB of the photographs held out; the same for the same candidate."""
        module = self.supernet.extract(candidate)
        masks = prune_oneshot(module, candidate.rules())
        module.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        masks = {path: mask.to(self.fabric.device) for path, mask in masks.items()}
        self._fine_tune(module.train(), masks)
        return score_model(module, self.task, self.data, progress).value

    def _fine_tune(self, module: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Trains what is not pruned; what is stays zero."""
        opt = optimiser(module, self.spec)
        for step, batch in enumerate(batches(self.examples, self.order, 0, self.steps, workers=1)):
            for group in opt.param_groups:
                group["lr"] = learning_rate(step, self.steps, self.spec)
            low, high = self.fabric.to_device(batch)
            with self.fabric.autocast():
                loss = self.task.loss(module(low.contiguous(memory_format=torch.channels_last)), high)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            apply_masks(module, masks)
