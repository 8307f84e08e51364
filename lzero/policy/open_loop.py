"""Heads that read predicted latents, as those of a search do.

Teacher-forced windows show heads encoded latents alone; in a search all but the root's are predicted. Here a window is run a
second time, two of three latents replaced by what the first run predicted for them.

Shape legend: B = windows, P = steps of their past, S = H + 1 steps, H = unrolled transitions, D = latent width, T = tasks.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import WorldModelOutput
from lzero.nn.scalars import ScalarSupport
from lzero.policy.losses import Sums, loss_sums
from lzero.policy.targets import Batch

# One encoded latent, then two predicted ones: further from an encoded one few simulations go.
PERIOD = 3


def open_loop_sums(
    model: UniZeroMTModel,
    batch: Batch,
    latent: Tensor,
    output: WorldModelOutput,
    num_tasks: int,
    support: ScalarSupport,
) -> Sums:
    """Sums of the loss terms at the steps whose latent is predicted; labels are those of the first run.

    The gradient goes on into the prediction, so the dynamics learn what the heads need. A second predicted latent in a row
    comes from an encoded one in the first run, but stands behind a predicted one here. What is counted of experts counts
    both runs.

    Args:
        model: online.
        batch: the windows; their past is left out.
        latent: encoded ``(B, S, D)``.
        output: of the first run.
        num_tasks: T.
        support: of value and reward.
    """
    steps = latent.shape[1]
    is_open = torch.arange(steps, device=latent.device) % PERIOD > 0
    # nothing was predicted for the first step of an episode
    is_open = is_open & F.pad(batch.led_on, (1, 0))  # (B, S)
    predicted = F.pad(model.encoder.norm(output.next_latent), (0, 0, 1, 0))  # (B, S, D)
    mixed = torch.where(is_open[..., None], predicted, latent)
    timeline = batch.timeline
    action = batch.action[:, timeline.past :]
    opened = model.world_model(mixed, action, batch.groups, timeline.present())
    counted = replace(batch, acting=batch.acting & is_open, led_on=batch.led_on & is_open[:, :-1])
    # balance losses look at the first run: this one has the same windows
    opened = replace(opened, balance=None)
    return loss_sums(mixed, opened, counted, num_tasks, support, model.encoder.norm)
