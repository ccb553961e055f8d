"""What the engine around the model costs a rank, counted in bytes of float32. No tensors.

Shape letters: P parameters of the whole model, W ranks.
"""

from __future__ import annotations

import math

FLOAT = 4
ZERO_3_KEPT = 10**9
"""Parameters that DeepSpeed keeps from the forward to the backward pass at stage 3 (its
`stage3_max_live_parameters` and `stage3_max_reuse_distance`, which are not changed here)."""


def engine_bytes(parameters: int, world_size: int, zero_stage: int, frozen: int = 0) -> dict[str, int]:
    """Bytes per rank of P float32 parameters under Adam: weights, gradients and what the optimiser holds.
    So many `frozen` ones beside them are weights alone.

    The optimiser holds two moments; at stages 1 to 3 also a copy of the weights that it updates, in DeepSpeed
    even of float32 ones. Stage 1 shares its part out, stage 2 gradients too, stage 3 weights too; from the
    forward to the backward pass stage 3 holds gathered ones in addition, all of them up to `ZERO_3_KEPT`.
    """
    whole, share = FLOAT * parameters, FLOAT * math.ceil(parameters / world_size)
    fixed = FLOAT * (math.ceil(frozen / world_size) if zero_stage == 3 else frozen)
    held = {
        "weights": (share if zero_stage == 3 else whole) + fixed,
        "gradients": share if zero_stage >= 2 else whole,
        "optimiser": 2 * whole if zero_stage == 0 else 3 * share,
    }
    if zero_stage == 3:
        shared = parameters + frozen if world_size > 1 else 0
        held["gathered weights"] = FLOAT * min(shared, ZERO_3_KEPT)
    return held


def engine_traffic(parameters: int, world_size: int, zero_stage: int, frozen: int = 0) -> dict[str, int]:
    """Bytes a rank sends on a ring in a step to keep P float32 parameters equal.

    Stages 0 to 2 sum gradients everywhere: DeepSpeed gives a bucket with gradients of several ranks to all of
    them. 1 and 2 then hand the new weights round. 3 sums each gradient where it is applied, and hands weights
    round for the forward pass, `frozen` ones too; for the backward pass again where there are more of them
    than DeepSpeed keeps in between.
    """
    once = math.ceil(FLOAT * parameters * (world_size - 1) / world_size)
    if zero_stage == 0:
        return {"gradients": 2 * once}
    if zero_stage < 3:
        return {"gradients": 2 * once, "weights": once}
    fixed = math.ceil(FLOAT * frozen * (world_size - 1) / world_size)
    again = once if parameters + frozen > ZERO_3_KEPT else 0
    return {"gradients": once, "weights": once + again + fixed}
