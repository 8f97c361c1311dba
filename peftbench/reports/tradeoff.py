"""What a score costs: one-number scores of two benchmarks, and Pareto fronts.

Both numbers fold a choice of weights into a score, so they stand beside the raw cost and never
instead of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PPT_PARAMETERS = 1e7
"""C of the PPT score: trained parameters of a typical large method."""
PSCP_PARAMETERS = 5e8
"""C_p of the PSCP score: trained parameters."""
PSCP_FLOPS = 1e13
"""C_f of the PSCP score: FLOPs that the method adds to a forward pass."""
PSCP_BYTES = 94e9
"""C_m of the PSCP score: bytes of peak memory in training, those of an H100 NVL."""


def ppt(share: float, trained: float) -> float:
    """Return the performance-parameter trade-off of V-PETL Bench.

    PPT = M exp(-log10(U / C + 1)) with C = 10^7 (Xin et al., "V-PETL Bench", NeurIPS 2024, data
    sets and benchmarks). The constant gives the PPT columns of the benchmark's tables back.

    Args:
        share: the score M, between 0 and 1.
        trained: the number U of trained parameters, heads not counted.

    """
    return share * math.exp(-math.log10(trained / PPT_PARAMETERS + 1))


def pscp(share: float, trained: float, memory: float, flops: float, beta: float = 1.0) -> float:
    """Return the soft score penalties of PEFT-Bench.

    PSCP = P (1 + M_p / C_p)^-b (1 + M_f / C_f)^-b (1 + M_m / C_m)^-b with C_p = 5 10^8 parameters,
    C_f = 10 TFLOPs and C_m = 94 GB (Belanec et al., "PEFT-Bench", arXiv 2511.21285, and the
    benchmark's own computation of it).

    Args:
        share: the score P, between 0 and 1.
        trained: trained parameters M_p.
        memory: peak memory of training M_m, bytes.
        flops: what the method adds to the FLOPs of inference, M_f.
        beta: weight of the three costs.

    """
    costs = (trained / PSCP_PARAMETERS, flops / PSCP_FLOPS, memory / PSCP_BYTES)
    return share * math.prod((1 + cost) ** -beta for cost in costs)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other beats: none costs as little and scores more, or the reverse.

    Args:
        points: (cost, score); less cost and more score is better.

    Returns:
        Places in ``points`` in order of cost.

    """
    out: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not out or points[i][1] > points[out[-1]][1] or points[i] == points[out[-1]]:
            out.append(i)
    return out
