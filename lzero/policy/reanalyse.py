"""Reanalysed policy targets: replayed steps are searched anew with the target network.

Source: MuZero Reanalyze (arXiv 2104.06294). The history of a step is what its window, past included, holds of its episode.

Shape legend: B = windows, P = steps of their past, S = H + 1 steps, J = history steps, A = actions, D = latent width.
"""

import numpy as np
import torch
from torch import Tensor

from lzero.config import ExperimentConfig
from lzero.mcts.search import make_tree, search
from lzero.model import UniZeroMTModel
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.nn.moe_paths import compute_dtype
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.search_model import search_model


@torch.no_grad()
def reanalysed_policy(
    policy: Tensor,
    model: UniZeroMTModel,
    support: ScalarSupport,
    config: ExperimentConfig,
    latent: Tensor,
    action: Tensor,
    timeline: Timeline,
    groups: TaskGroups,
    legal: Tensor,
) -> Tensor:
    """Stored policy targets ``(B, S, A)``, ``reanalyse_fraction`` of the windows searched anew at every step.

    Args:
        policy: stored targets.
        model: the target network.
        support: of its scalars.
        config: the experiment; its kind of search is used as when collecting, but without noise.
        latent: target latents ``(B, P+S, D)``.
        action: ``(B, P+S)`` int64.
        timeline: of these steps.
        groups: tasks of the B windows.
        legal: ``(B, A)`` bool.
    """
    windows, steps = policy.shape[:2]
    history, settings = config.history_steps, config.policy.search
    # spread evenly over the batch, which is sorted by task: every task gets its part
    count = max(1, round(config.policy.reanalyse_fraction * windows))
    chosen = torch.linspace(0, windows - 1, count).round().long()
    roots = TaskGroups.of(np.repeat(groups.host_task_id[chosen.numpy()], steps), latent.device)
    chosen = chosen.to(latent.device, non_blocking=True)
    latent, action = latent[chosen], action[chosen]
    host_legal = legal[chosen].repeat_interleave(steps, dim=0).cpu().numpy()
    # Root (b, t) sees steps t − J + 1 … t, as far as they are of its episode.
    step = torch.arange(timeline.past, timeline.past + steps, device=latent.device)
    seen = step[:, None] + torch.arange(1 - history, 1, device=latent.device)  # (S, J)
    inside, seen = seen >= 0, seen.clamp_min(0)
    episode = timeline.episode[chosen]
    own = inside & (episode[:, seen] == episode[:, step, None])
    root = model.initial_inference(
        latent[:, seen].flatten(0, 1),
        action[:, seen[:, :-1]].flatten(0, 1),
        own.sum(dim=-1).flatten() - 1,
        roots,
        settings.num_simulations,
    )
    num_actions = host_legal.shape[1]
    tree = make_tree(
        settings,
        count * steps,
        settings.num_simulations,
        num_actions,
        discount=config.policy.discount,
    )
    found = search(
        search_model(model, support, compute_dtype(latent)), root, host_legal, tree
    ).policy()
    fresh = torch.as_tensor(found, device=policy.device)
    return policy.index_copy(0, chosen, fresh.view(count, steps, num_actions))
