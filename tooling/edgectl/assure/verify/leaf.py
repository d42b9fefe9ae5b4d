"""A domain in which every neuron is fixed: the network is affine there, and a linear program decides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgectl.assure.verify.bounds import Rows
from edgectl.assure.verify.root import Root

FEASIBLE = 1e-9  # HiGHS's tolerance on constraints; a slack must exceed it to refute


def least_slack(root: Root, sign: Tensor, rows: Rows, allowed: Tensor) -> tuple[float, Tensor | None]:
    """The least over the domain of the largest `row . y - threshold` of a clause, and where it is, `[inputs]`.

    `sign` `[U]` gives S of every unstable neuron, `allowed` `[m, 1]` the clause.  Infinity and None where the domain is empty;
    minus infinity and None where the program could not be solved.
    """
    from scipy import optimize  # noqa: PLC0415

    network, size = root.network, root.network.inputs
    results = [(torch.eye(size, dtype=torch.float64), torch.zeros(size, 1, dtype=torch.float64))]
    lines, ends, first = [], [], 0
    for layer in network.layers:
        weight, bias = torch.zeros(layer.size, size, dtype=torch.float64), layer.bias
        for source, matrix in layer.maps:
            weight, bias = weight + matrix.forward @ results[source][0], bias + matrix.forward @ results[source][1]
        s = sign[first : first + layer.unstable, None]
        first += layer.unstable
        lines.append(s * weight[: layer.unstable])  # S z <= 0
        ends.append(-s * bias[: layer.unstable])
        active = torch.ones_like(bias)
        active[: layer.unstable] = (s < 0).to(bias)
        results.append((weight * active, bias * active))
    mine = allowed[:, 0] > 0
    weight, bias = rows.matrix[mine] @ results[-1][0], rows.matrix[mine] @ results[-1][1] - rows.threshold[mine]
    fixed, free = torch.cat(lines), torch.cat(ends)
    lhs = torch.cat(
        (torch.cat((fixed, weight)), torch.cat((fixed.new_zeros(len(fixed), 1), -weight.new_ones(len(weight), 1)))), 1
    )
    box = torch.cat((root.box.lower, root.box.upper), 1).numpy()
    answer: Any = optimize.linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=lhs.numpy(),
        b_ub=torch.cat((free, -bias))[:, 0].numpy(),
        bounds=np.concatenate((box, [[-np.inf, np.inf]])),
        method="highs",
        options={"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE},
    )
    if answer.status == 2:
        return float("inf"), None
    if answer.status != 0:
        return -float("inf"), None
    return float(answer.fun), torch.from_numpy(answer.x[:-1])
