"""`edgectl build`: a recipe becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgectl.lowering import BuildResult


_PACKING = (
    "bits: of a stored weight; bands: of rows that run depth-first; block: filters that share a list of non-zeros;"
    " filters: how they were put in blocks; stored: weights over non-zeros; costs: estimated, over the block that was chosen."
)


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file: model, pruning, quantisation, target.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to make.")],
    explain: Annotated[
        bool, typer.Option("--explain", help="Print how layers are packed, and who runs each op and why.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Photographs to calibrate int8 activations on, not the recipe's."),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", metavar="pte|litert", help="ExecuTorch's format or LiteRT's, not the recipe's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace DIR if it is an artifact already.")] = False,
) -> None:
    """Prune, quantise and compile a model as RECIPE says, into the artifact folder DIR.

    Example: edgectl build models/wdsr/x4_pruned.toml --out out/pruned --explain
    """
    from edgectl.cli.console import progress
    from edgectl.recipe import Recipe, as_format

    chosen = None if format is None else as_format(format)
    plan = Recipe.load(recipe)
    with progress() as say:
        say("starting PyTorch", None)
        from edgectl.lowering import build

        result = build(plan, out, images=images, format=chosen, force=force, progress=say)
    _print_layers(result)
    if explain:
        _print_explain(result)


def _print_layers(result: BuildResult) -> None:
    from edgectl.cli.console import count, output, shape, table

    manifest = result.artifact.manifest
    layers = table("layer", "op", "shape", "scheme", ">rate", ">non-zeros", "bits", ">MACs", ">bytes", "runs on")
    for layer in manifest.layers:
        weighted = layer.weights > 0
        layers.add_row(
            layer.name,
            layer.op,
            shape(layer.output_shape),
            layer.scheme if weighted else "",
            f"{layer.rate:.2f}" if weighted else "",
            count(layer.nonzeros) if weighted else "",
            f"{layer.bits} {layer.quant}".strip() if weighted or layer.quant else "",
            count(layer.macs) if layer.macs else "",
            count(layer.bytes) if layer.bytes else "",
            layer.runner,
        )
    nonzeros, weights = (count(sum(getattr(layer, n) for layer in manifest.layers)) for n in ("nonzeros", "weights"))
    size = result.artifact.model.stat().st_size
    console = output()
    console.print(layers)
    facts = f"{len(manifest.layers)} layers, {nonzeros} of {weights} weights are not zero, {manifest.model} {count(size)}B"
    console.print(f"\n{result.artifact.folder}: {facts}", soft_wrap=True)


def _print_explain(result: BuildResult) -> None:
    from edgectl.cli.console import output, table

    layers = table("layer", "method", ">bits", ">bands", ">block", "filters", ">stored", "other blocks cost")
    for layer in result.layers:
        if not layer.weights:
            continue
        costs = [f"{block}: {cost:.2f}x" for block, cost in layer.costs.items() if block != layer.block]
        stored = f"{layer.stored / layer.nonzeros:.2f}x" if layer.nonzeros else ""
        bands = str(layer.bands) if layer.bands > 1 else ""
        layers.add_row(
            layer.name, layer.method, str(layer.bits), bands, str(layer.block), layer.order, stored, ", ".join(costs)
        )
    rows = table("node", "op", "layer", "runs on", "why")
    for placement in result.explain:
        rows.add_row(placement.node, placement.op, placement.layer, placement.runner, placement.reason)
    console = output()
    console.print("\nHow layers are packed", style="bold")
    console.print(layers)
    console.print(_PACKING)
    console.print("\nWho runs it, and why", style="bold")
    console.print(rows)
