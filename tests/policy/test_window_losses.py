"""Losses of single windows add up to those of an update; selections likewise; tasks do not reach each other."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lzero.analysis.ablation import switched_off
from lzero.policy.losses import TERMS
from lzero.policy.window_losses import encoded, window_losses, window_selections
from lzero.replay.windows import ReplayWindows
from tests.policy.unizero_cases import MODELS, make_config, make_policy, make_replay

CONFIGS = {
    "moe": {},
    "registers, two experts a token": MODELS["registers"],
    "a past, online labels": {
        "policy": {"burn_in_steps": 2, "loss": {"online_labels": True}, "reanalyse_fraction": 0.5}
    },
}


def windows_of(config, seed: int = 0) -> ReplayWindows:
    sizes = {task: 5 + task for task in range(config.num_tasks)}
    return make_replay(config).sample(sizes, np.random.default_rng(seed))


def of_task(windows: ReplayWindows, task: int) -> ReplayWindows:
    own = windows.task_id == task
    parts = {field.name: getattr(windows, field.name)[own] for field in fields(windows)}
    return replace(windows, **parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_windows_add_up_to_an_update(name):
    config = make_config(CONFIGS[name])
    policy, windows = make_policy(config), windows_of(config)
    sums, counts, selections = [], [], []
    for task in range(config.num_tasks):
        seen = encoded(policy, of_task(windows, task))
        found, number = window_losses(policy, seen)
        assert found.shape == number.shape == (len(TERMS), 5 + task)
        sums.append(found.sum(axis=1))
        counts.append(number.sum(axis=1))
        by_window = window_selections(policy, seen)
        selections.append({layer: of.sum(axis=0) for layer, of in by_window.items()})
    means = np.stack(sums, axis=1) / np.stack(counts, axis=1)
    learned = policy.learn(windows).task_means.numpy()
    searched_anew = [TERMS.index("policy")] if config.policy.reanalyse_fraction else []
    same = [term for term in range(len(TERMS)) if term not in searched_anew]
    np.testing.assert_allclose(means[same], learned[same], rtol=2e-4, atol=2e-5)
    for layer, selection in policy.expert_statistics.reduced().items():
        for task, mine in enumerate(selections):
            np.testing.assert_array_equal(selection.counts[0, task], mine[layer])


def test_windows_keep_their_selections():
    config = make_config({"model": {"moe": {"top_k": 2}}})
    policy = make_policy(config)
    windows = of_task(windows_of(config), 1)
    together = window_selections(policy, encoded(policy, windows))
    alone = replace(
        windows, **{field.name: getattr(windows, field.name)[2:3] for field in fields(windows)}
    )
    for layer, counts in window_selections(policy, encoded(policy, alone)).items():
        np.testing.assert_array_equal(together[layer][2], counts[0])
        assert counts.sum() == 2 * (2 * config.policy.unroll_steps + 1)


def test_an_expert_without_tokens_of_a_task_is_nothing_to_it():
    """Not even by a rounding: in the layers behind, other tasks' tokens do stand elsewhere."""
    policy = make_policy(make_config(MODELS["hardcoded"]))
    windows = windows_of(policy.config)
    seen = [encoded(policy, of_task(windows, task)) for task in range(3)]
    before = [window_losses(policy, part)[0] for part in seen]
    for task, part in enumerate(seen):
        [own] = np.flatnonzero(window_selections(policy, part)[0].sum(axis=0))
        with switched_off(policy.routed_layers[0], f"expert_{own}"):
            during = [window_losses(policy, other)[0] for other in seen]
        for other in range(3):
            assert np.array_equal(during[other], before[other]) == (other != task)


def test_nothing_is_counted_or_learned():
    policy = make_policy(make_config())
    windows = windows_of(policy.config)
    state = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    seen = encoded(policy, windows)
    window_losses(policy, seen)
    window_selections(policy, seen)
    assert not seen.latent.requires_grad
    assert all(
        torch.equal(state[name], tensor) for name, tensor in policy.model.state_dict().items()
    )
    assert not any(layer.selection_counts.any() for layer in policy.routed_layers.values())
