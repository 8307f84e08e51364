"""Losses of single windows, as an update has them but without learning: what an ablation changes.

Frames are encoded once: experts stand behind the encoder. Windows come task by task, so that what happens to the tokens of
one task never reaches another's, not even by a rounding that depends on how many rows a product has.

Shape legend: B = windows of one task, P = steps of their past, S = H + 1 steps, Q = loss terms (``losses.TERMS``), E = routed
experts, D = latent width.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lzero.device import tuned_for
from lzero.nn.moe import MoELayer
from lzero.nn.routing import count_selections_
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import loss_sums
from lzero.policy.targets import Batch, make_batch

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy
    from lzero.replay.windows import ReplayWindows


@dataclass(frozen=True)
class EncodedWindows:
    """Windows of one task, up to where experts come in.

    Attributes:
        batch: with targets; its observations are dropped.
        latent: encoded, those of P steps of the past in front ``(B, P+S, D)``.
    """

    batch: Batch
    latent: Tensor

    @property
    def work(self) -> int:
        """Multiplications of the tokens, for the choice of threads."""
        return self.latent.numel() * self.latent.shape[-1]


@torch.no_grad()
def encoded(policy: "UniZeroMTPolicy", windows: "ReplayWindows") -> EncodedWindows:
    """Encode windows of one task and make their targets, with the target network as it is.

    Policy targets are those that were stored: none is searched anew.
    """
    config = policy.config
    stored = config.policy.model_copy(update={"reanalyse_fraction": 0.0})
    config = config.model_copy(update={"policy": stored})
    work = 2 * windows.action.numel() * config.model.embed_dim**2
    with tuned_for(work + 16 * windows.observation.numel(), policy.device), policy.autocast():
        batch = make_batch(windows, policy.target, policy.support, policy.legal, config)
        latent = policy.model.encode(batch.observation, batch.groups)
    if config.policy.loss.online_labels:
        batch = replace(batch, latent=latent[:, batch.timeline.past + 1 :])
    return EncodedWindows(replace(batch, observation=batch.observation[:0]), latent)


@torch.no_grad()
def window_losses(policy: "UniZeroMTPolicy", seen: EncodedWindows) -> tuple[np.ndarray, np.ndarray]:
    """Loss terms of every window, added over the steps that count, and how many these are: ``(Q, B)`` each.

    Waits for the device.
    """
    model, batch = policy.model, seen.batch
    number = len(batch.groups.host_task_id)
    # every window for itself: to a sum over tasks each is a task of its own
    own = replace(batch, groups=TaskGroups.of(np.arange(number), policy.device))
    with tuned_for(seen.work, policy.device), policy.autocast():
        output = model.world_model(seen.latent, batch.action, batch.groups, batch.timeline)
        latent = seen.latent[:, batch.timeline.past :]
        sums = loss_sums(latent, output, own, number, policy.support, model.encoder.norm)
    return sums.terms.double().cpu().numpy(), sums.counts.double().cpu().numpy()


@torch.no_grad()
def window_selections(policy: "UniZeroMTPolicy", seen: EncodedWindows) -> dict[int, np.ndarray]:
    """How often the tokens of every window choose each expert ``(B, E)``, by layer; all tokens, as in an update.

    Waits for the device.
    """
    batch = seen.batch
    with (
        tuned_for(seen.work, policy.device),
        counted_by_window(policy.routed_layers) as counts,
        policy.autocast(),
    ):
        policy.model.world_model(seen.latent, batch.action, batch.groups, batch.timeline)
    return {layer: found.cpu().numpy() for layer, found in counts.items()}


@contextmanager
def counted_by_window(layers: Mapping[int, MoELayer]) -> Iterator[dict[int, Tensor]]:
    """Count the selections of what passes layers ``(B, tokens, D)`` while the context is open: ``(B, E)`` by layer."""
    counts: dict[int, Tensor] = {}

    def count(index: int, layer: MoELayer, arguments: tuple[Tensor, Tensor]) -> None:
        x, task_id = arguments
        windows, tokens = x.shape[:2]
        _, chosen_TK, _, _ = layer.routing(x.flatten(0, 1), task_id.flatten())
        window_T = torch.arange(windows, device=x.device).repeat_interleave(tokens)
        counts[index] = chosen_TK.new_zeros(windows, layer.config.num_experts)
        count_selections_(counts[index], window_T, chosen_TK)

    with ExitStack() as hooks:
        for index, layer in layers.items():
            hook = layer.register_forward_pre_hook(partial(count, index))
            hooks.callback(hook.remove)
        yield counts
