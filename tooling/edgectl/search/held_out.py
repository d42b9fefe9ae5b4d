"""Super-resolution while networks are compared: scored on photographs held out of `train`, so that `test` stays unseen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgectl.images import to_image, to_input
from edgectl.search.space import SrSpace
from edgectl.tasks.sr import Patches, PatchExamples, SuperResolution, image_files, photographs_of, psnr_y, test_pair
from edgectl.tasks.task import Predict, Progress, Score

_EACH = 10  # one photograph of so many is held out
_MOST = 20  # photographs held out


class SearchTask(SuperResolution):
    """Super-resolution with a test set of its own: some photographs of `train`, which no network is trained on.

    The output of a supernet in training is a list: its loss is the mean of theirs.
    """

    def __init__(self, space: SrSpace) -> None:
        super().__init__(space.shape, space.scale)
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def examples(self, data: Path, progress: Progress) -> PatchExamples:
        """Patches of the photographs in `train` that are not held out.

        Raises:
            UserError: as `Patches`.
        """
        files, _ = _split(data)
        return PatchExamples(Patches(files, self.scale, progress=lambda done: progress("reading photographs", done)))

    def loss(self, output: Tensor | Sequence[Tensor], target: Any) -> Tensor:
        """Mean absolute difference, over all outputs."""
        outputs = [output] if isinstance(output, Tensor) else output
        return torch.stack([super(SearchTask, self).loss(each, target) for each in outputs]).mean()

    @torch.no_grad()
    def score(self, predict: Predict, data: Path, *, fixed: Sequence[int] | None = None, progress: Progress) -> Score:
        """Mean Y-PSNR in dB of the photographs held out, without `scale` pixels at every edge; `fixed` must be None.

        Raises:
            UserError: a photograph is too small.
        """
        assert fixed is None
        if not self._pairs:
            self._pairs = [test_pair(file, self.scale) for file in _split(data)[1]]
        figures = []
        for index, (large, small) in enumerate(self._pairs):
            output = predict(torch.from_numpy(to_input(small)))
            assert isinstance(output, Tensor)
            figures.append(psnr_y(to_image(output.float().cpu().numpy()), large, self.scale))
            progress("scoring", (index + 1) / len(self._pairs))
        return Score("held-out Y-PSNR", "dB", float(np.mean(figures)), None, len(figures))


def _split(data: Path) -> tuple[list[Path], list[Path]]:
    """(photographs to train on, those held out); the same one where there is only one."""
    files = image_files(photographs_of(data, "train"))
    held_out = files[min(_EACH, len(files)) // 2 :: _EACH][:_MOST]
    return [file for file in files if file not in held_out] or files, held_out
