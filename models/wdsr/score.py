"""Prints the Y-PSNR of a super-resolution recipe and of bicubic interpolation on folders of photographs."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from edgectl.errors import UserError
from edgectl.images import read_image
from edgectl.lowering.builder import compress
from edgectl.recipe import Recipe, load_model
from edgectl.tasks.sr import evaluate, image_files


def main() -> None:
    """One line a photograph, and the mean of each folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    try:
        recipe = Recipe.load(args.recipe)
        model = compress(recipe, load_model(recipe), torch.rand(recipe.model.input))
        for folder in args.folders:
            photographs = {file.stem: read_image(file) for file in image_files(folder)}
            scores = evaluate(model, photographs, recipe.model.scale or 1)
            for score in scores:
                print(f"{score.name:24} {score.model:7.2f} dB, bicubic {score.bicubic:7.2f} dB")
            model_mean, plain_mean = np.mean([(score.model, score.bicubic) for score in scores], axis=0)
            print(f"{'mean of ' + str(len(scores)):24} {model_mean:7.2f} dB, bicubic {plain_mean:7.2f} dB   {folder}")
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
