"""Where the parameters of the loss begin: drawn from a seed, the same on every rank, whatever holds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings
from swamp_dist.distributed import World, broadcast_from_main, gather, joined, on_main
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import Prototypes
from swamp_dist.model.kmeans import spherical_kmeans
from swamp_dist.model.logits import Logits, LogitStart


def draw_prototypes(settings: ObjectiveSettings, embedding_dim: int, seed: int) -> Prototypes | None:
    """Random unit vectors; None where the SwAMP term is off. Torch's random state stays what it is."""
    swamp = settings.swamp
    if swamp.weight == 0:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Prototypes(swamp.prototypes, embedding_dim, swamp.normalize_prototypes)


def make_logits(contrastive: ContrastiveSettings) -> Logits | None:
    """Scale and bias as the settings say; None where the form has none."""
    if not contrastive.has_logits:
        return None
    bias = contrastive.logit_bias if contrastive.form == "sigmoid" else None
    return Logits(LogitStart(1 / contrastive.temperature, bias, contrastive.learn_temperature))


def fresh_parameters(settings: ObjectiveSettings, embedding_dim: int, seed: int) -> nn.ModuleDict:
    """`prototypes` and `logits` as they begin, on the CPU whatever the default device is."""
    with torch.device("cpu"):
        made = {
            "prototypes": draw_prototypes(settings, embedding_dim, seed),
            "logits": make_logits(settings.contrastive),
        }
    return nn.ModuleDict({name: each for name, each in made.items() if each is not None})


def find_centres(rows: Tensor, clusters: int, seed: int, iterations: int) -> Tensor:
    """(K, D) centres that rank 0 finds among the rows (n, D) of all ranks, on the CPU. All ranks call it.

    Raises:
        UserError: on all ranks: fewer rows than centres, or rows that are not finite.
    """
    world = joined(rows.device)
    everyone = gather(rows, world)

    def find() -> Tensor:
        try:
            return spherical_kmeans(everyone, clusters, seed, iterations).centres.cpu()
        except ValueError as error:
            raise UserError(f"prototypes cannot start as k-means centres: {error}") from error

    return on_main(world, find)


def copy_values(source: nn.Module, target: nn.Module) -> None:
    """Give the parameters and buffers of `target` the values of `source`, which has the same on the CPU.

    Those that are sharded over ranks (DTensor) are dealt out by rank 0: then all ranks call it.
    """
    values = dict(_tensors(source))
    with torch.no_grad():
        for name, tensor in _tensors(target):
            value = values[name].to(tensor.device, tensor.dtype)
            if isinstance(tensor, DTensor):
                value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
            tensor.copy_(value)


def take_from_main(module: nn.Module, world: World) -> None:
    """Overwrite parameters and buffers with those of rank 0, but what a wrapper has sharded: it was drawn
    alike on all ranks, and its pieces are put together again from all of them. All ranks call it."""
    for _, tensor in _tensors(module):
        if not isinstance(tensor, DTensor) and tensor.numel() > 0:  # ZeRO-3 leaves empty ones
            broadcast_from_main(tensor.data, world)


def is_on_meta(module: nn.Module) -> bool:
    """Whether some tensor has no values yet."""
    return any(tensor.is_meta for _, tensor in _tensors(module))


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
