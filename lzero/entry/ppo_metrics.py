"""What a PPO run logs: updates, how able to learn the network still is, conflict and experts."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lzero import tags
from lzero.analysis.conflict_log import log_gradient_conflicts
from lzero.analysis.effective_rank import effective_rank, ntk_effective_rank
from lzero.analysis.parameter_norms import parameter_norms
from lzero.analysis.plasticity import measure_plasticity
from lzero.entry.metrics import log_experts
from lzero.model.actor_critic import ActorCritic
from lzero.nn.parameters import trained
from lzero.policy.ppo_result import TERMS, PPOResult

if TYPE_CHECKING:
    from lzero.entry.ppo_run import PPORun

SIGNS_SEED = 0  # the same numbers are compared in all runs


def log_updates(run: "PPORun", result: PPOResult, first: int) -> None:
    """Log what is due after the updates of a round; collective.

    Args:
        run: the run.
        result: of the updates.
        first: updates before the round.
    """
    train, games, is_main = run.config.train, run.config.env.games, run.dist.is_main
    env_steps, train_iter = run.env_steps, run.policy.train_iter
    if _crossed(train.log_interval, first, train_iter):
        run.log(_numbers(run, result))
        with run.timer("analyse"):
            run.log(_ability_to_learn(run))
    if result.measured is not None:
        with run.timer("analyse"):
            conflicts = result.conflicts()
        run.measured["conflict"] = env_steps
        log_gradient_conflicts(
            run.logger,
            conflicts,
            games,
            env_steps,
            train_iter,
            is_main=is_main,
            drawing=run.drawing["conflict"],
            limit=run.config.policy.conflict_color_limit,
        )
    if run.policy.mixtures and _crossed(train.moe_log_interval, first, train_iter):
        # the logs know layers by number: their order is that of ``policy.mixtures``
        log_experts(run)


def _crossed(interval: int, before: int, now: int) -> bool:
    return interval > 0 and now // interval > before // interval


def _numbers(run: "PPORun", result: PPOResult) -> dict[str, float]:
    """Losses, gradient and router entropies as plain numbers, by tag; waits for the device."""
    means = result.task_means.cpu()
    metrics = {
        f"{tags.LEARN}grad_norm": result.grad_norm.item(),
        f"{tags.LEARN}skipped_updates": float(run.policy.skipped.item()),
        f"{tags.LEARN}learning_rate": run.policy.optimizer.param_groups[0]["lr"],
        tags.GRADIENT_SIMILARITY: result.similarity.item(),
    }
    for index, name in enumerate(TERMS):
        metrics[f"{tags.LEARN}{name}"] = means[index].nanmean().item()
        for task, game in enumerate(run.config.env.games):
            metrics[f"learn_{name}/{game}"] = means[index, task].item()
    for name, entropy in result.router_entropy.items():
        metrics[f"{tags.ROUTER_ENTROPY}{name}"] = entropy.nanmean().item()
        for task, game in enumerate(run.config.env.games):
            of_mixture = f"{tags.GAME_ROUTER_ENTROPY}{name.replace('/', '_')}"
            metrics[tags.of_game(of_mixture, game)] = entropy[task].item()
    metrics |= run.rates.pop(run.of_all_games(run.env_steps), run.policy.train_iter)
    return {tag: value for tag, value in metrics.items() if value == value}  # NaN: not played


def _ability_to_learn(run: "PPORun") -> dict[str, float]:
    """Dormant units, effective ranks of features and of the empirical NTK on the probe, and the weights' length."""
    observation, task_id = run.probe
    policy = run.policy
    arguments = (observation, task_id, policy.extra)
    metrics = measure_plasticity(policy.model, policy.unit_groups(), arguments, run.dist)
    # of the probe, which has other tasks in other shares than the updates: those log their own
    metrics = {tag: value for tag, value in metrics.items() if tag.startswith(tags.DORMANT_RATIO)}
    with torch.no_grad():
        features = policy.model.features(*arguments)
    for name, rows in features.items():
        metrics[f"{tags.EFFECTIVE_RANK}{name}"] = effective_rank(rows).item()
    for name, output in _one_output_each(policy.model, arguments).items():
        parameters = trained(list(policy.model.networks[name].parameters()))
        metrics[f"{tags.NTK_RANK}{name}"] = ntk_effective_rank(output, parameters).item()
    metrics[f"{tags.WEIGHT_NORM}all"] = parameter_norms(policy.model).norm().item()
    return metrics


def _one_output_each(
    model: ActorCritic, arguments: tuple[Tensor, Tensor, Tensor | None]
) -> dict[str, Tensor]:
    """A number for each observation ``(B,)``, by network: the value, and of the logits a sum with fixed random signs, whose
    kernel is on average that of all logits.
    """
    logits, value, _ = model(*arguments)
    generator = torch.Generator().manual_seed(SIGNS_SEED)
    signs = torch.randint(0, 2, (logits.shape[1],), generator=generator) * 2.0 - 1.0
    policy = logits @ signs.to(logits)
    return (
        {"shared": policy + value}
        if "shared" in model.networks
        else {"actor": policy, "critic": value}
    )
