"""Predicted latents in place of encoded ones, as a search has them: how heads learn to read them, and how good they are.

Teacher-forced windows show heads encoded latents alone; in a search all but the root's are predicted. For the loss a window
is run a second time, two of three latents replaced by what the first run predicted for them. For the diagnostic the last
steps of a window are imagined from the one before them.

Shape legend: B = windows, P = steps of their past, S = H + 1 steps, H = unrolled transitions, D = latent width, T = tasks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lzero import tags
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import Timeline, WorldModelOutput
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.losses import Sums, loss_sums
from lzero.policy.targets import Batch

if TYPE_CHECKING:
    from lzero.policy.unizero_multitask import UniZeroMTPolicy
    from lzero.replay.windows import ReplayWindows

# One encoded latent, then two predicted ones: further from an encoded one few simulations go.
PERIOD = 3
# Steps that the diagnostic looks ahead: deeper a search of a few simulations hardly goes.
DEPTH = 5


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


def open_loop_errors(policy: "UniZeroMTPolicy", windows: "ReplayWindows") -> dict[str, float]:
    """How good the latents and rewards are that the model imagines along the actions that were taken, by step and game.

    ``health/open_loop_latent_{k}/{game}``: mean squared error of the latent k steps ahead, as a share of the error of
    taking the first one for it; above 1 it were better to believe that nothing moves.
    ``health/open_loop_reward_{k}/{game}``: mean |error| of the k-th reward. Collective; waits for the device.
    """
    sums = policy.dist.all_reduce_sum_(_imagine(policy, windows)).cpu().numpy()
    metrics = {}
    for task, game in enumerate(policy.config.env.games):
        for k, (error, copying, reward_error, number) in enumerate(sums[..., task].T.tolist(), 1):
            if copying > 0:
                metrics[tags.of_game(f"{tags.HEALTH}open_loop_latent_{k}", game)] = error / copying
            if number > 0:
                mean = reward_error / number
                metrics[tags.of_game(f"{tags.HEALTH}open_loop_reward_{k}", game)] = mean
    return metrics


@torch.no_grad()
def _imagine(policy: "UniZeroMTPolicy", windows: "ReplayWindows") -> Tensor:
    """Sums over windows, by imagined step and task ``(4, steps, T)``: squared error of the latents, that of copying, |error| of
    the rewards, and how many windows are still in the episode.
    """
    model, device, settings = policy.model, policy.device, policy.config.policy
    groups, first, last = (
        TaskGroups.of(windows.task_id, device),
        settings.burn_in_steps,
        settings.unroll_steps,
    )
    present = slice(first, first + last + 1)
    observation, action, episode = (
        tensor[:, present].to(device)
        for tensor in (windows.observation, windows.action, windows.episode)
    )
    reward, root = windows.reward.to(device), max(0, last - DEPTH)
    sums = torch.zeros(4, last - root, policy.num_tasks, device=device)
    with policy.autocast():
        latent = model.encode(observation, groups)
        imagined = latent.clone()
        for step in range(root, last):
            seen = slice(step + 2)  # the last latent only makes its action a place
            output = model.world_model(
                imagined[:, seen], action[:, : step + 1], groups, Timeline(episode[:, seen])
            )
            imagined[:, step + 1] = model.encoder.norm(output.next_latent[:, step])
            right = latent[:, step + 1]
            by_row = torch.stack(
                (
                    (imagined[:, step + 1] - right).square().mean(dim=1),
                    (latent[:, root] - right).square().mean(dim=1),
                    (policy.support.expectation(output.reward[:, step]) - reward[:, step]).abs(),
                    torch.ones_like(reward[:, step]),
                )
            )
            goes_on = episode[:, step + 1] == episode[:, root]
            by_row = torch.where(goes_on, by_row, 0.0)
            sums[:, step - root].index_add_(1, groups.task_id, by_row)
    return sums
