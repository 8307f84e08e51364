"""PPO: rollouts, mixtures of actor-critics, measures of continual learning."""

import numpy as np
import torch

from lzero.analysis.continual import at_turn_ends, backward_transfer, forgetting, forward_transfer
from lzero.config_mixture import ActorCriticConfig, MixtureConfig
from lzero.config_ppo import PPOExperiment
from lzero.entry import train_ppo_moe
from lzero.model.actor_critic import ActorCritic
from lzero.nn.mixture import Mixture
from lzero.nn.softmoe import SlotRouter
from lzero.nn.stacked import StackedConv, StackedLinear, StackedNetwork
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.rollout import advantages
from tests.bad_calls.bad import Bad

CALM = torch.zeros(3, 2, dtype=torch.bool)  # 3 steps of 2 environments, no episode ends
ONES = torch.ones(3, 2)
TASKS = torch.zeros(4, dtype=torch.int64)


def gae(**changes: object) -> object:
    arguments = {
        "reward": ONES,
        "value": torch.ones(4, 2),
        "terminated": CALM,
        "truncated": CALM,
        "discount": 0.9,
        "gae_lambda": 0.9,
    }
    return advantages(**arguments | changes)


def mixture(**changes: object) -> Mixture:
    experts = StackedNetwork((5,), 2, hidden=(4,))
    return Mixture(MixtureConfig(num_experts=2, **changes), experts, (5,), 2)


def actor_critic(**changes: object) -> ActorCritic:
    return ActorCritic(ActorCriticConfig(stem="mlp", **changes), (5,), 3, 2)


def experiment(**changes: object) -> object:
    env = {"domain": "zoo.catch.domain:CATCH", "games": ("Catch",)}
    return PPOExperiment.model_validate({"env": env} | changes)


CASES = {
    "advantages without a last value": Bad(lambda: gae(value=ONES), r"value.*\(3, 2\).*\(4, 2\)"),
    "advantages of other deaths": Bad(
        lambda: gae(terminated=CALM[:2]), r"terminated.*\(2, 2\).*\(3, 2\)"
    ),
    "advantages of other time limits": Bad(
        lambda: gae(truncated=CALM[:, :1]), r"truncated.*\(3, 1\).*\(3, 2\)"
    ),
    "advantages of a list": Bad(lambda: gae(reward=[1.0]), r"reward=\[1.0\]", TypeError),
    "deaths that are numbers": Bad(lambda: gae(terminated=ONES), "terminated.*float", TypeError),
    "discount above 1": Bad(lambda: gae(discount=1.5), "discount=1.5"),
    "lambda below 0": Bad(lambda: gae(gae_lambda=-0.1), "gae_lambda=-0.1"),
    "a mixture of other experts": Bad(
        lambda: Mixture(
            MixtureConfig(num_experts=3), StackedNetwork((5,), 2, hidden=(4,)), (5,), 2
        ),
        "experts are 2.*says 3",
    ),
    "a mixture of no tasks": Bad(
        lambda: Mixture(
            MixtureConfig(num_experts=2), StackedNetwork((5,), 2, hidden=(4,)), (5,), 0
        ),
        "num_tasks=0",
    ),
    "a mixture of other samples": Bad(
        lambda: mixture()(torch.ones(4, 6), TASKS), r"x.*\(4, 6\).*5"
    ),
    "a mixture of fewer tasks than samples": Bad(
        lambda: mixture()(torch.ones(4, 5), TASKS[:3]), r"task_id.*\(3,\).*\(4,\)"
    ),
    "a mixture of tasks that are no numbers": Bad(
        lambda: mixture()(torch.ones(4, 5), TASKS.float()), "task_id.*float32", TypeError
    ),
    "a gradient for a router that sees none": Bad(
        lambda: mixture()(torch.ones(4, 5), TASKS, torch.ones(8)), "extra.*router_gradient=False"
    ),
    "progress beyond the end": Bad(lambda: mixture().set_progress(1.5), "progress=1.5"),
    "slots for no expert": Bad(lambda: SlotRouter(5, 0, 1), "num_experts=0"),
    "no slots": Bad(lambda: SlotRouter(5, 2, 0), "slots=0"),
    "a stacked map of nothing": Bad(lambda: StackedLinear(0, [(3, 1.0)], 2), "in_features=0"),
    "a stacked convolution without a kernel": Bad(lambda: StackedConv(3, 4, 0, 2), "kernel=0"),
    "a network without layers": Bad(lambda: StackedNetwork((5,), 2), "all empty"),
    "maps smaller than a kernel": Bad(
        lambda: StackedNetwork((3, 2, 2), 2, channels=(4,), hidden=(4,)), "in_shape|kernel"
    ),
    "an unknown activation": Bad(
        lambda: StackedNetwork((5,), 2, hidden=(4,), activation="swish"), "activation='swish'"
    ),
    "an actor of other observations": Bad(
        lambda: actor_critic()(torch.ones(4, 6), TASKS), r"observation.*\(4, 6\)"
    ),
    "an actor of a list": Bad(
        lambda: actor_critic()([1.0], TASKS), r"observation=\[1.0\]", TypeError
    ),
    "an actor of whole numbers": Bad(
        lambda: actor_critic()(torch.ones(4, 5, dtype=torch.int64), TASKS),
        "observation.*int64",
        TypeError,
    ),
    "an actor of no actions": Bad(
        lambda: ActorCritic(ActorCriticConfig(stem="mlp"), (5,), 0, 2), "num_actions=0"
    ),
    "an order of other games": Bad(
        lambda: experiment(schedule={"setting": "crl", "order": ("Pong",)}), "schedule.order"
    ),
    "minibatches that do not divide": Bad(
        lambda: experiment(policy={"minibatches": 7}), "policy.minibatches=7"
    ),
    "PPO without an experiment": Bad(
        lambda: train_ppo_moe(None), "config|input", (TypeError, ValueError)
    ),
    "PPO with a seed that is none": Bad(lambda: train_ppo_moe(experiment(), seed=-1), "seed=-1"),
    "PPO for less than a step": Bad(
        lambda: train_ppo_moe(experiment(), max_env_step=0), "max_env_step=0"
    ),
    "PPO for longer than its schedule": Bad(
        lambda: train_ppo_moe(experiment(train={"max_env_steps": 10_240}), max_env_step=20_000),
        "max_env_step=20000",
    ),
    "a policy of UniZero's experiment": Bad(
        lambda: PPOPolicy({}, (5,), np.ones((1, 3), bool)), "config", TypeError
    ),
    "scores in a row": Bad(lambda: forgetting(np.ones(3)), r"scores.*\(3,\)"),
    "no scores": Bad(lambda: forgetting(np.ones((0, 2))), r"\(0, 2\)"),
    "endless scores": Bad(lambda: forgetting(np.full((1, 2), np.inf)), "infinity"),
    "turns of a game that is none": Bad(
        lambda: backward_transfer(np.ones((2, 2)), [0, 2]), "played.*2"
    ),
    "turns that are no numbers": Bad(
        lambda: backward_transfer(np.ones((2, 2)), [0.0, 1.0]), "played", TypeError
    ),
    "scores before of fewer games": Bad(
        lambda: forward_transfer(np.ones((2, 2)), [0, 1], np.ones(1)), r"before.*\(1,\).*\(2,\)"
    ),
    "turns that end in the past": Bad(
        lambda: at_turn_ends(np.array([1.0]), np.array([1.0]), [3.0, 2.0]), r"ends=\[3.0, 2.0\]"
    ),
}
