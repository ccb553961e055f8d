"""Writes a run that was killed after a commit as version 0.1 wrote it, spelled out here byte by byte.

Nothing of the package writes here, so the format cannot drift along with it. What the files hold is fixed:
names, keys, their order, dtypes. The numbers come from the caller, as they differ between machines. Given the
numbers of a run of version 0.1 (commit 92e4961) every file of the commit is equal to that run's, except that
torch.save packs the same content of the engine's file in other bytes. TensorBoard's files are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

STEP = 8
PARAMETERS = {
    "a.fc.weight": (4, 6), "a.fc.bias": (4,), "a.unit.fc.weight": (6, 4), "a.unit.fc.bias": (6,),
    "a.unit.gate.weight": (6, 6), "a.unit.gate.bias": (6,), "b.fc.weight": (6, 8), "b.fc.bias": (6,),
    "b.gate.weight": (6, 6), "b.gate.bias": (6,), "prototypes.weight": (5, 6),
}  # fmt: skip
"""Names and shapes in the order of the model; all are float32."""
OBJECTIVE = {
    "queue/ids": (torch.int64, (16,)),
    "queue/pushed": (torch.int64, ()),
    "queue/steps": (torch.int64, (16,)),
    "log_v": (torch.float32, (2, 5)),
    "queue/a": (torch.float32, (16, 6)),
    "queue/b": (torch.float32, (16, 6)),
}
TAGS = (
    "loss/total", "loss/contrastive", "loss/swamp", "queue/age_max", "queue/age_mean", "queue/fill",
    "similarity/hardest_negative", "similarity/positive", "swamp/agreement", "swamp/iterations",
    "swamp/marginal_error", "swamp/repeats", "swamp/target_entropy", "swamp/target_entropy_max",
    "swamp/used_prototypes", "optim/lr", "optim/grad_norm", "perf/step_seconds", "perf/data_seconds",
    "perf/pairs_per_second",
)  # fmt: skip
VALIDATION_TAGS = tuple(
    f"retrieval/validation/pair/{direction}/{figure}"
    for direction in ("a_to_b", "b_to_a")
    for figure in ("r_at_1", "r_at_5", "r_at_10", "median_rank")
)
JOB = Path(__file__).with_name("old_stage.yaml").read_text()
"""stage.yaml, with the folder of the shard set to be filled in: 12 steps."""
FINGERPRINT = {
    "seed": 0, "data.a": "text", "data.b": "video", "data.train_split": "train", "data.entries": 8,
    "data.pairs_per_entry": 1, "data.full_shuffle_below": 8589934592, "data.shuffle_block": 2048,
    "data.manifest": "3b14728e5c5d5ce84efaca7a73d06199dfa4cee782c4206cb21936419104f8e7", "data.lanes": 8,
    "model.embedding_dim": 6, "model.a.kind": "words", "model.a.sentence_dim": 4, "model.b.kind": "gated",
    "model.b.unit_parts": [4, 4], "objective.contrastive.weight": 1.0,
    "objective.contrastive.negatives": "all", "objective.contrastive.margin": 0.1,
    "objective.contrastive.reduction": "mean", "objective.contrastive.all_negatives_steps": 0,
    "objective.contrastive.in_entry_share": 0.5, "objective.swamp.weight": 0.1,
    "objective.swamp.prototypes": 5, "objective.swamp.normalize_prototypes": True,
    "objective.swamp.temperature": 0.1, "objective.swamp.eta": 2.0, "objective.swamp.assignment": "soft",
    "objective.swamp.queue.size": 16, "objective.swamp.queue.counts_batch": True,
    "objective.swamp.queue.start_when_filled": None, "objective.swamp.sinkhorn.iterations": None,
    "objective.swamp.sinkhorn.max_iterations": 50, "objective.swamp.sinkhorn.tolerance": 0.01,
    "objective.swamp.sinkhorn.check_every": 5, "objective.swamp.sinkhorn.warm_start": True,
    "objective.swamp.sinkhorn.momentum": False, "objective.swamp.sinkhorn.score_precision": "float32",
    "train.optimizer.lr": 0.01, "train.optimizer.betas": [0.9, 0.999], "train.optimizer.eps": 1e-08,
    "train.optimizer.weight_decay": 0.0, "train.optimizer.clip_norm": None,
    "train.schedule.kind": "constant", "train.schedule.warmup_steps": 0, "train.schedule.decay": 0.9,
    "train.schedule.decay_every": 1, "train.schedule.floor": 0.0, "engine.precision": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """The numbers of a run at step 8, by parameter name or as the objective names them."""

    weights: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    objective: Mapping[str, Tensor]
    best_weights: Mapping[str, Tensor]
    best_value: float
    best_step: int


def write_killed_run(folder: Path, shards: Path, numbers: Numbers) -> None:
    """The run folder that 0.1 leaves when it is killed while it writes the row of step 10.

    Raises:
        ValueError: tensors of other names, dtypes or shapes than 0.1 has.
    """
    commit = folder / "checkpoints" / f"step-{STEP}"
    (commit / "engine").mkdir(parents=True)
    (folder / "logs").mkdir()
    floats = {name: (torch.float32, shape) for name, shape in PARAMETERS.items()}
    for tensors in (numbers.weights, numbers.exp_avg, numbers.exp_avg_sq, numbers.best_weights):
        _check(tensors, floats)
    _check(numbers.objective, OBJECTIVE)
    (folder / "stage.yaml").write_text(JOB.format(shards=shards))
    best = folder / "checkpoints" / f"best-step-{numbers.best_step}.safetensors"
    save_file(dict(numbers.best_weights), best, {"step": str(numbers.best_step)})
    torch.save(_engine_state(numbers), commit / "engine" / "mp_rank_00_model_states.pt")
    save_file(dict(numbers.objective), commit / "objective.safetensors")
    _write_manifest(commit, numbers)
    _write_events(folder, numbers)
    _write_metrics(folder)
    _write_owner(folder)


def _check(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != dict(expected):
        raise ValueError(f"expected {dict(expected)}, found {found}")


def _engine_state(numbers: Numbers) -> dict[str, Any]:
    """What DeepSpeed 0.19.8 saves at stage 0 with torch's Adam, on one rank."""
    numbered = enumerate(PARAMETERS)
    moments = {
        i: {
            "step": torch.tensor(float(STEP)),
            "exp_avg": numbers.exp_avg[name],
            "exp_avg_sq": numbers.exp_avg_sq[name],
        }
        for i, name in numbered
    }
    group = {
        "lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0.0, "amsgrad": False,
        "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
        "decoupled_weight_decay": False, "params": list(range(len(PARAMETERS))),
    }  # fmt: skip
    return {
        "module": OrderedDict((name, numbers.weights[name]) for name in PARAMETERS),
        "buffer_names": [],
        "optimizer": {"state": moments, "param_groups": [group]},
        "param_shapes": None, "frozen_param_shapes": None, "shared_params": None,
        "frozen_param_fragments": None, "lr_scheduler": None, "data_sampler": None, "random_ltd": None,
        "skipped_steps": 0, "global_steps": STEP, "global_samples": 8 * STEP,
        "dp_world_size": 1, "mp_world_size": 1,
        "checkpoint_parallel_dimensions": {"pp_degree": 1, "tp_degree": 1},
        "ds_config": {
            "train_micro_batch_size_per_gpu": 8, "train_batch_size": 8, "gradient_clipping": 0.0,
            "zero_optimization": {"stage": 0, "overlap_comm": False}, "zero_allow_untested_optimizer": True,
            "torch_autocast": {"enabled": False, "dtype": "bfloat16"},
            "checkpoint": {"tag_validation": "Fail"}, "steps_per_print": None, "wall_clock_breakdown": False,
        },
        "ds_version": "0.19.8",
    }  # fmt: skip


def _write_manifest(commit: Path, numbers: Numbers) -> None:
    names = ("engine/mp_rank_00_model_states.pt", "objective.safetensors")
    progress = {"step": STEP, "best_value": numbers.best_value, "best_step": numbers.best_step, "stale": 0}
    content = {
        "schema": 1,
        "step": STEP,
        "world_size": 1,
        "meta": {"progress": progress, "fingerprint": FINGERPRINT, "zero_stage": 0},
        "files": [
            {
                "name": name,
                "bytes": (commit / name).stat().st_size,
                "sha256": hashlib.sha256((commit / name).read_bytes()).hexdigest(),
            }
            for name in names
        ],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (commit / "MANIFEST.json").write_text(json.dumps(content | {"sha256": digest}, indent=1))


def _write_events(folder: Path, numbers: Numbers) -> None:
    """Two processes that are gone: ticks since boot below 1,000 are never those of a user's process."""
    mark = {"host": socket.gethostname(), "pid": 400, "born": f"{_boot()}:400"}
    began = time.time() - 60
    rank = mark | {"pid": 401, "born": f"{_boot()}:401"}
    commits = ((4, 4, 0.0), (STEP, numbers.best_step, numbers.best_value))
    events = [
        {"time": began, "event": "starting", **mark, "world_size": 1, "logs": {}},
        {"time": began + 5, "event": "started", **rank, "world_size": 1, "ranks": [rank],
         "logs": {"rank-000.log": 0}},
        {"time": began + 9, "event": "training", "step": 0, "total_steps": 12, "log_every": 1,
         "validates": "validation", "metric": "pair/a_to_b/r_at_1"},
        *({"time": began + 9 + step, "event": "committed", "step": step, "seconds": 0.017, "best_step": best,
           "best_value": value} for step, best, value in commits),
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def _write_metrics(folder: Path) -> None:
    """Made-up numbers: a row per step up to 9, one per validation, and half a row of step 10."""
    lines = []
    for step in range(1, 11):
        lines.append(json.dumps({"step": step} | dict.fromkeys(TAGS, 0.5)) + "\n")
        if step in (4, STEP):
            lines.append(json.dumps({"step": step} | dict.fromkeys(VALIDATION_TAGS, 50.0)) + "\n")
    lines[-1] = lines[-1][: len(lines[-1]) // 2]
    (folder / "metrics.jsonl").write_text("".join(lines))


def _write_owner(folder: Path) -> None:
    """What a killed process leaves of its lock."""
    owner = {
        "host": socket.gethostname(), "boot": _boot(), "pid": 400, "job": "",
        "since": "2026-01-01 00:00:00+00:00", "token": "0" * 32, "born": f"{_boot()}:400",
    }  # fmt: skip
    (folder / ".owner.json").write_text(json.dumps(owner))
    (folder / ".owner.lock").touch()


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else os.uname().nodename
