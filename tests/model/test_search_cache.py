"""A search that keeps keys and values in slots computes what one full forward over the same path computes."""

import numpy as np
import pytest
import torch

from lzero.config import ModelConfig
from lzero.model import UniZeroMTModel
from lzero.nn.tasks import TaskGroups

NUM_TASKS, NUM_ACTIONS, DIM = 3, 7, 32
TASK_ID = np.array(
    [2, 0, 1, 1, 0, 0]
)  # unsorted and uneven: both groupings of the heads are exercised
GROUPS = TaskGroups.of(TASK_ID, "cpu")


def make_model(**overrides) -> UniZeroMTModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"embed_dim": DIM, "num_heads": 4, "encoder": {"kind": "mlp", "hidden": (16,)}} | overrides
    )
    model = UniZeroMTModel(config, (5,), NUM_ACTIONS, NUM_TASKS).eval()
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(
                parameter, std=0.2
            )  # heads start at zero, which would compare nothing
    return model


@pytest.mark.parametrize(
    "moe",
    [
        {"enabled": False},
        {"enabled": True},
        {"top_k": 2},
        {"routing": "hardcoded"},
        {"routing": "soft"},
    ],
)
@pytest.mark.parametrize("residual", [False, True], ids=["latents", "changes of latents"])
@pytest.mark.parametrize("task_embedding", ["none", "add", "concat", "register"])
@pytest.mark.parametrize(
    "nodes_per_step",
    [
        lambda rng: np.ones(len(TASK_ID), np.int64),
        lambda rng: np.full(len(TASK_ID), 3),
        lambda rng: rng.integers(0, 5, len(TASK_ID)),
    ],
    ids=["one a root", "three a root", "uneven"],
)
@torch.no_grad()
def test_prefill_and_steps_equal_full_forward(moe, task_embedding, residual, nodes_per_step):
    model = make_model(moe=moe, task_embedding=task_embedding, residual_latent=residual)
    history, simulations, rng = model.config.history_steps, 12, np.random.default_rng(1)
    # More than a search is given. Registers tell a window's start, so with them a search's past is a window's.
    lived = history if task_embedding == "register" else history + 6
    latent = torch.randn(len(TASK_ID), lived, DIM)
    action = torch.from_numpy(rng.integers(0, NUM_ACTIONS, (len(TASK_ID), lived - 1)))
    num_valid = torch.tensor([0, 1, 2, 3, history - 1, history - 1])
    root = model.initial_inference(
        latent[:, -history:], action[:, 1 - history :], num_valid, GROUPS, simulations
    )

    paths = []  # per root and node: latents and actions from the episode's start
    for n, valid in enumerate(num_valid.tolist()):
        first = 0 if valid == history - 1 else lived - 1 - valid
        paths.append([(latent[n, first:], action[n, first:])])
        full = model.world_model(
            paths[n][0][0][None], paths[n][0][1][None], TaskGroups.of(TASK_ID[n : n + 1], "cpu")
        )
        torch.testing.assert_close(root.policy[n], full.policy[0, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(root.value[n], full.value[0, -1], atol=1e-5, rtol=1e-5)

    done = np.zeros(len(TASK_ID), np.int64)
    while done.min() < simulations:
        width = np.minimum(nodes_per_step(rng), simulations - done)  # a step may leave a root out
        parents = [rng.integers(0, count + 1, new) for count, new in zip(done, width, strict=True)]
        nodes = [np.arange(count, count + new) + 1 for count, new in zip(done, width, strict=True)]
        rows = np.arange(len(TASK_ID)).repeat(width), np.concatenate(parents), np.concatenate(nodes)
        chosen = rng.integers(0, NUM_ACTIONS, len(rows[0]))
        step = model.recurrent_inference(root.cache, rows[0], rows[1], chosen, rows[2])
        assert len(step.latent) == width.sum()
        done += width
        for row, (n, parent) in enumerate(zip(rows[0], rows[1], strict=True)):
            latents, actions = paths[n][parent]
            action_taken = torch.from_numpy(chosen[row : row + 1])
            latents = torch.cat([latents, step.latent[row, None]])
            paths[n].append((latents, torch.cat([actions, action_taken])))
            full = model.world_model(
                *(part[None] for part in paths[n][-1]), TaskGroups.of(TASK_ID[n : n + 1], "cpu")
            )
            expected_latent = model.encoder.norm(full.next_latent[0, -1])
            for got, expected in (
                (step.policy[row], full.policy[0, -1]),
                (step.value[row], full.value[0, -1]),
                (step.reward[row], full.reward[0, -1]),
                (step.termination[row], full.termination[0, -1]),
                (step.latent[row], expected_latent),
            ):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_unused_history_has_no_influence():
    model = make_model()
    latent, action = torch.randn(6, 4, DIM), torch.randint(0, NUM_ACTIONS, (6, 3))
    num_valid = torch.tensor([0, 1, 2, 0, 1, 2])
    other_latent, other_action = latent.clone(), action.clone()
    for n, valid in enumerate(num_valid.tolist()):
        other_latent[n, : 3 - valid] = torch.nan  # a slot that is read at all spreads NaN
        other_action[n, : 3 - valid] = 0
    other_latent = torch.where(other_latent.isnan(), 1e3 * torch.ones(()), other_latent)
    first = model.initial_inference(latent, action, num_valid, GROUPS, 1)
    second = model.initial_inference(other_latent, other_action, num_valid, GROUPS, 1)
    torch.testing.assert_close(first.policy, second.policy)


def test_search_longer_than_the_positions_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"num_simulations=3000 .* use at most"):
        model.initial_inference(
            torch.randn(6, 4, DIM),
            torch.zeros(6, 3, dtype=torch.int64),
            torch.zeros(6, dtype=torch.int64),
            GROUPS,
            3000,
        )
