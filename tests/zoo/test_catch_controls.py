"""The controls of the conflict's measurement are what their answers follow from: two tasks that are
one function, or that share no routed expert."""

import pytest
import torch

from lzero.config import ExperimentConfig
from lzero.model import UniZeroMTModel
from lzero.nn.feed_forward import feed_forward
from lzero.nn.tasks import TaskGroups
from zoo.catch.config.presets import presets
from zoo.catch.envs import ACTIONS, COLUMNS, ROWS

CONTROLS = {
    f"{kind}-{name.removeprefix('control_')}": config
    for kind, moe in (("moe", True), ("dense", False))
    for name, (_, config) in presets(moe=moe).items()
    if name.startswith("control_")
}
STEPS = 5


def test_which_controls_there_are():
    assert set(CONTROLS) == {
        *("moe-conflict", "moe-same", "moe-routing"),
        *("dense-conflict", "dense-same"),
    }
    assert len({config.exp_name for config in CONTROLS.values()}) == len(CONTROLS)


def outputs(config: ExperimentConfig, change_of_past: float = 0.0) -> torch.Tensor:
    """Policy logits ``(2, S, A)`` of both tasks on the same window, whose first frame may be another."""
    torch.manual_seed(0)
    model = UniZeroMTModel(config.model, (2, ROWS, COLUMNS), len(ACTIONS), config.num_tasks).eval()
    for parameter in model.parameters():
        if not parameter.any():  # heads' outputs
            torch.nn.init.normal_(parameter, std=0.2)
    observation = torch.rand(1, STEPS, 2, ROWS, COLUMNS).expand(2, -1, -1, -1, -1).clone()
    observation[:, 0] += change_of_past
    action = torch.randint(len(ACTIONS), (1, STEPS - 1)).expand(2, -1)
    _, output = model(observation, action, TaskGroups.of(torch.arange(2), "cpu"))
    return output.policy


@pytest.mark.parametrize("name", CONTROLS)
@torch.no_grad()
def test_both_tasks_are_one_function_unless_they_are_routed(name):
    first, second = outputs(CONTROLS[name])
    apart = (first - second).abs().max()
    assert apart > 1e-2 if name == "moe-routing" else apart < 1e-5


@pytest.mark.parametrize("name", CONTROLS)
@torch.no_grad()
def test_an_earlier_frame_reaches_no_later_prediction(name):
    """It would show which way the paddle has moved. Two blocks reach back one step more."""
    config = CONTROLS[name]
    changed = (outputs(config, 1.0) - outputs(config)).abs()
    assert changed[:, 0].max() > 1e-2 and changed[:, 1:].max() < 1e-5
    deeper = config.model_dump()
    deeper["model"]["num_layers"] = 2
    deeper = ExperimentConfig.model_validate(deeper)
    assert (outputs(deeper, 1.0) - outputs(deeper))[:, 1].abs().max() > 1e-3


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_differ_from_the_positive_one_in_what_they_control(name):
    kind, _, what = name.partition("-")
    mine, positive = CONTROLS[name].model_dump(), CONTROLS[f"{kind}-conflict"].model_dump()
    if what == "same":
        assert mine["env"].pop("games") == ("Catch", "CatchAgain")
        assert positive["env"].pop("games") == ("Catch", "MirroredCatch")
    if what == "routing":
        for field, value in (("routing", "hardcoded"), ("num_experts", 2)):
            assert mine["model"]["moe"].pop(field) == value
            del positive["model"]["moe"][field]
    del mine["exp_name"], positive["exp_name"]
    assert mine == positive
    assert 0 < mine["policy"]["gradient_conflict_interval"] <= 10


def test_a_token_passes_as_many_weights_in_every_control():
    work = set()
    for config in CONTROLS.values():
        work.add(feed_forward(config.model, config.num_tasks).work_of_token())
    assert len(work) == 1


@pytest.mark.parametrize("moe", [True, False])
def test_sizes_and_learning_are_those_of_the_study(moe):
    control = presets(moe=moe)["control_conflict"][1].model_dump()
    study = presets(moe=moe)["conflict_study"][1].model_dump()
    for data in (control, study):
        for field in ("num_layers", "context_steps", "share_head"):
            del data["model"][field]
        del data["policy"]["gradient_conflict_interval"], data["train"]["moe_log_interval"]
        del data["exp_name"]
    assert control == study
