"""The DeepSpeed engine: with the `engine_*` modules all that knows how the model is held and stepped.

Everything else sees an `Engine` that maps inputs to embeddings, a loss to an update, and weights to
one state dict, whatever the ZeRO stage.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, OptimizerSettings
from swamp_dist.distributed import World, lost_peers
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.model.logits import LARGEST_LOG_SCALE
from swamp_dist.product_library import choose_library
from swamp_dist.records import Inputs, PairEmbeddings, PairSets, Reversals, Sets
from swamp_dist.train.commit_meta import GO_BACK
from swamp_dist.train.deepspeed_library import holds_code, import_deepspeed, listed, tensors_only
from swamp_dist.train.engine_files import recorded_writes
from swamp_dist.train.engine_parameters import (
    FACTOR,
    check_micro_batch,
    copies_of,
    cpu_weights,
    fill_gradients,
    make_optimizer,
)
from swamp_dist.train.engine_resharding import HeldEngine, load_resharded
from swamp_dist.train.resharding import SURPRISES


def engine_config(
    settings: EngineSettings, optimizer: OptimizerSettings, micro_batch: int, world_size: int
) -> dict[str, Any]:
    """DeepSpeed's configuration for a stage. Buckets stay small for small models, as they should.

    bf16 is `torch_autocast`: parameters, optimiser state, prototypes and the objective stay float32.
    """
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "train_batch_size": micro_batch * world_size,
        "gradient_clipping": optimizer.clip_norm or 0.0,
        "zero_optimization": {"stage": settings.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": settings.precision == "bf16", "dtype": "bfloat16"},
        "checkpoint": {"tag_validation": "Fail"},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


class Engine:
    """A dual encoder with its optimiser, held by DeepSpeed on all ranks of `world`."""

    def __init__(
        self,
        model: DualEncoder,
        optimizer: OptimizerSettings,
        settings: EngineSettings,
        local_pairs: int,
        world: World,
    ) -> None:
        """Hand the model to DeepSpeed; all ranks call it.

        Raises:
            UserError: `micro_batch` does not divide the `local_pairs` of a rank.
        """
        check_micro_batch(settings.micro_batch, local_pairs, world)
        deepspeed = import_deepspeed(world)
        model = model.to(world.device)
        parameters = sum(
            parameter.numel() for parameter in model.parameters()
        )  # before ZeRO-3 takes them apart
        config = engine_config(settings, optimizer, local_pairs, world.size)
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=listed(make_optimizer(optimizer, model)),
            config=config,
            dist_init_required=False,
        )
        self._deepspeed = deepspeed
        self._engine = engine
        self._stage = settings.zero_stage
        self._logits = model.logits if model.logits is not None and model.logits.learned else None
        self._norm: Tensor | None = None
        self._averages = world.size > 1 or settings.zero_stage > 0
        if not self._averages:  # one rank's mean is its own gradient: a tenth to a quarter of a small step
            engine.enable_backward_allreduce = False
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.world = world
        self.product_library = choose_library(local_pairs * world.size, parameters, world.device)
        """What makes the float32 products of a step on a CPU; a resumed training takes what it began with."""
        self.micro_batch = settings.micro_batch
        """Pairs to encode at a time; None = all pairs of the rank."""

    @property
    def num_parameters(self) -> int:
        """Trained parameters of the whole model, over all ranks; frozen ones are not counted."""
        return sum(int(getattr(p, "ds_numel", p.numel())) for p in self._trained)

    def embed_pairs(
        self,
        a: Inputs,
        b: Inputs,
        on_a: Callable[[Tensor], None] | None = None,
        negatives: Inputs | None = None,
        reversals: Reversals | None = None,
    ) -> PairEmbeddings | PairSets:
        """Embeddings of this rank's pairs and the prototypes, with gradient; of a model that does not embed,
        its sets. The rest as in `DualEncoder.forward`."""
        given: PairEmbeddings | PairSets = self._engine(
            a, b, on_a=on_a, negatives=negatives, reversals=reversals
        )
        return given

    def embed_a(self, inputs: Inputs) -> Tensor | Sets:
        """Embeddings (n, D) of modality A without gradient, or the sets of a model that does not embed; a
        collective under ZeRO-3."""
        return self._embed(inputs, None)

    def embed_b(self, inputs: Inputs) -> Tensor | Sets:
        """The same of modality B."""
        return self._embed(None, inputs)

    def _embed(self, a: Inputs | None, b: Inputs | None) -> Tensor | Sets:
        with torch.no_grad():
            given: Tensor | Sets = self._engine(a, b)
        return given

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside, training mode after."""
        self._engine.eval()
        try:
            yield
        finally:
            self._engine.train()

    def backward(self, loss: Tensor) -> None:
        """Gradients of this rank's loss, averaged over ranks."""
        self._engine.backward(loss)
        if not self._averages:
            fill_gradients(self._trained)

    @contextlib.contextmanager
    def one_reduction(self) -> Iterator[None]:
        """Every `backward` inside adds its gradients on this rank; all are averaged over ranks once, at the
        end.

        Whole gradients stay on the rank until then, at stages 2 and 3 too.
        """
        if self._stage == 0:
            with self._engine.no_sync():
                yield
            if self._averages:
                self._engine.allreduce_gradients()
        else:  # no_sync is refused at stages 2 and 3, and the boundary flag alone reduces every time there
            with self._engine.coalesce_grad_reduction():
                yield

    def step(self, learning_rate: float, *, measures_norm: bool = True) -> None:
        """Clip the global gradient norm, then one step at `learning_rate` times the factor of each group; a
        learned logit scale stays below its bound.

        Args:
            learning_rate: of this step.
            measures_norm: whether `gradient_norm` is asked for after it; a part of a small step.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group.get(FACTOR, 1.0)  # earlier versions' checkpoints know none
        self._norm = None
        if self._stage == 0 and measures_norm:  # DeepSpeed keeps none; gradients are whole, and averaged
            gradients = [p.grad for p in self._trained if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients)
        self._engine.step()
        if self._logits is not None:
            master = self._deepspeed.utils.safe_get_local_fp32_param if self._stage == 3 else None
            for held in copies_of(self._logits.log_scale, self._stage, master):
                held.detach().clamp_(max=LARGEST_LOG_SCALE)

    def gradient_norm(self) -> float:
        """Global gradient norm of the last update, before clipping.

        Raises:
            ValueError: that step did not measure it, at ZeRO stage 0.
        """
        if self._stage > 0:
            return float(self._engine.get_global_grad_norm())
        if self._norm is None:
            raise ValueError("the last step did not measure the norm of the gradient (measures_norm)")
        return float(self._norm)

    def weights(self) -> dict[str, Tensor]:
        """The whole model on the CPU in float32, on rank 0; {} elsewhere. All ranks call it."""
        module = self._engine.module
        if self._stage < 3:
            return cpu_weights(module) if self.world.is_main else {}
        parameters = list(module.parameters())
        with self._deepspeed.zero.GatheredParameters(parameters, modifier_rank=None):
            return cpu_weights(module) if self.world.is_main else {}

    def save(self, folder: Path) -> list[Path]:
        """Write this rank's part of model and optimiser under `folder`; the files this rank wrote.

        DeepSpeed's own `latest` is never written: it appears before other ranks have finished.
        """
        with recorded_writes(self._engine) as files:
            self._engine.save_checkpoint(str(folder), tag="engine", save_latest=False)
        return files

    def load(self, folder: Path) -> None:
        """Restore model and optimiser from `folder`, written by the same world size and ZeRO stage.

        Raises:
            UserError: files are missing, or hold anything but tensors and plain values.
        """
        try:
            with tensors_only():
                path, _ = self._engine.load_checkpoint(str(folder), tag="engine")
        except pickle.UnpicklingError as error:
            raise UserError(holds_code(folder, error)) from None
        except SURPRISES as error:
            if lost_peers(error, self.world):
                raise
            raise UserError(
                f"{folder}: model and optimiser are not those of this training.\n"
                f"  found: {type(error).__name__}: {error}\nFix: {GO_BACK}"
            ) from error
        if path is None:
            raise UserError(f"{folder}: the engine's part of the checkpoint is missing or unreadable")

    def load_resharded(self, folder: Path, stage: int, world_size: int) -> None:
        """Restore model and optimiser from `folder`, written by `world_size` ranks at ZeRO `stage`.

        Only reads `folder`, and every rank reads all of it. All ranks call it.

        Raises:
            UserError: on all ranks, before anything is changed, if the files cannot be understood.
        """
        held = HeldEngine(self._deepspeed, self._engine, self._stage, self.world)
        load_resharded(held, folder, stage, world_size)
