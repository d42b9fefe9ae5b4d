"""How far a search's supernet can be believed, on what `edgectl search sr` left in a folder RUN.

python tests/search/bench_supernet.py ranks RUN [--networks 12] [--epochs 10]
    Random dense networks of the space, each trained by itself from random weights: the rank correlation of its quality and the
    one that it inherits from the supernet.

python tests/search/bench_supernet.py samplers RUN [--evaluations 60] [--seeds 5] [--picture samplers.png]
    Random search, evolution and the ensemble (bench_samplers.py) on inherited quality less the hinge on the search's budget,
    without fine-tuning.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from bench_samplers import compare, draw, lines
from scipy.stats import spearmanr

from edgectl.profile.picture import write_picture
from edgectl.search.held_out import SearchTask
from edgectl.search.judge import Judge
from edgectl.search.network import network
from edgectl.search.run import joined
from edgectl.training.batches import Order, batches
from edgectl.training.loop import learning_rate, optimiser, score_model


def say(message: str, fraction: float | None) -> None:
    """Nothing."""
    del message, fraction


def ranks(run: Path, count: int, epochs: float) -> None:
    """Prints inherited and own quality of networks, and their rank correlation."""
    joint = joined(run, None, say)
    space, data = joint.settings.space, joint.data
    task, chance = SearchTask(space), random.Random(0)
    examples = task.examples(data, say)
    spec = joint.settings.supernet.model_copy(update={"epochs": epochs})
    order = Order(len(examples), spec.batch, 0)
    steps = order.steps(epochs)
    inherited, own = [], []
    for number in range(count):
        candidate = space.candidate(space.random(chance)).dense()
        inherited.append(score_model(joint.supernet.extract(candidate), task, data, say).value)
        torch.manual_seed(number)
        module = network(space.scale, candidate.features, candidate.blocks).train().to(memory_format=torch.channels_last)
        opt = optimiser(module, spec)
        for step, batch in enumerate(batches(examples, order, 0, steps, workers=1)):
            for group in opt.param_groups:
                group["lr"] = learning_rate(step, steps, spec)
            low, high = batch
            with joint.fabric.autocast():
                loss = task.loss(module(low.contiguous(memory_format=torch.channels_last)), high)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
        own.append(score_model(module, task, data, say).value)
        print(f"inherited {inherited[-1]:.3f} dB, by itself {own[-1]:.3f} dB: {candidate}", flush=True)
    print(f"{count} networks, {epochs:g} epochs each: Spearman's rank correlation {spearmanr(inherited, own).statistic:.3f}")


def samplers(run: Path, evaluations: int, seeds: int, picture: Path | None) -> None:
    """Prints, and draws, what each sampler finds in so many evaluations."""
    joint = joined(run, None, say)
    objective = joint.objective
    judge = Judge(joint.fabric, joint.supernet, SearchTask(objective.space), joint.data, joint.settings.fine_tune, 0, say)
    found = compare(
        lambda parameters: judge.quality(objective.space.candidate(parameters), say) - objective.hinge(parameters),
        objective.distributions(),
        range(seeds),
        evaluations,
        encode=objective.space.encode,
        known=objective.hinge,
        say=lambda line: print(line, flush=True),
    )
    print("\n".join(lines(found)))
    if picture is not None:
        write_picture(draw(found, "inherited Y-PSNR less the hinge on the budget, dB"), picture)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ranks", "samplers"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.what == "ranks":
        ranks(asked.run, asked.networks, asked.epochs)
    else:
        samplers(asked.run, asked.evaluations, asked.seeds, asked.picture)


if __name__ == "__main__":
    main()
