"""Reanalysed policy targets: replayed steps are searched anew with the target network.

Source: MuZero Reanalyze (arXiv 2104.06294). The context of a step is what its window holds before it, as in training.

Shape legend: B = windows, S = H + 1 steps, C = context steps, A = actions, D = latent width.
"""

import numpy as np
import torch
from torch import Tensor

from lzero.config import ExperimentConfig
from lzero.mcts.search import make_tree, search
from lzero.model import UniZeroMTModel
from lzero.nn.scalars import ScalarSupport


@torch.no_grad()
def reanalysed_policy(
    model: UniZeroMTModel,
    support: ScalarSupport,
    config: ExperimentConfig,
    latent: Tensor,
    action: Tensor,
    task_id: Tensor,
    legal: Tensor,
) -> Tensor:
    """Policies of fresh searches at every step of some windows.

    Args:
        model: the target network.
        support: of its scalars.
        config: the experiment; its kind of search is used as when collecting, but without noise.
        latent: target latents ``(B, S, D)``.
        action: ``(B, S)`` int64.
        task_id: ``(B,)`` int64.
        legal: ``(B, A)`` bool.

    Returns:
        ``(B, S, A)``.
    """
    windows, steps = latent.shape[:2]
    context, settings = config.model.context_steps, config.policy.search
    # Root (b, t) sees steps t − C + 1 … t of its window; steps before the window do not exist.
    step = torch.arange(steps, device=latent.device)
    seen = (step[:, None] + torch.arange(1 - context, 1, device=latent.device)).clamp_min(0)  # (S, C)
    num_valid = step.clamp_max(context - 1).repeat(windows)
    root_task = task_id.repeat_interleave(steps)
    host_legal = legal.repeat_interleave(steps, dim=0).cpu().numpy()
    root = model.initial_inference(
        latent[:, seen].flatten(0, 1),
        action[:, seen[:, :-1]].flatten(0, 1),
        num_valid,
        root_task,
        settings.num_simulations,
    )
    tree = make_tree(
        settings, windows * steps, settings.num_simulations, host_legal.shape[1], discount=config.policy.discount
    )
    policy = search(model, support, root, host_legal, tree).policy()
    return torch.as_tensor(policy.astype(np.float32), device=latent.device).view(windows, steps, -1)
