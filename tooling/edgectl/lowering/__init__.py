"""Lowering: exported graph -> IR -> passes -> layout -> packed plan -> `.pte` or `.tflite`.

`read` takes nodes of an exported graph, `passes` rewrites them, `geometry`, `layout` and `pack` decide how they run, `plan`
writes the binary, `partitioner` and `executorch` are the joint with ExecuTorch, and `builder` makes an artifact of a recipe.
"""

from edgectl.quiet import quiet

with quiet():
    from edgectl.lowering.builder import BuildResult, build

__all__ = ["BuildResult", "build"]
