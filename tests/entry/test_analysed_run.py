"""A real run, in short, leaves every number of the analysis under its name, and goes on counting when continued."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero import tags
from lzero.analysis import conflict_heatmaps, expert_log
from lzero.config import ExperimentConfig
from lzero.distributed import Distributed
from lzero.entry import train_unizero_multitask_segment_ddp
from lzero.logging import read_metrics
from zoo.catch.config.presets import presets

LAYERS, EXPERTS, TASKS, INTERVAL = 2, 3, 2, 4
WINDOWS = ("immediate", "short", "medium", "long")
DENSE_COMPONENTS = {
    "encoder",
    "transformer",
    *("study/encoder", "study/before_moe"),
    "encoder_parameters",
    *(f"{point}/layer{layer}" for point in ("before_moe", "moe_layer") for layer in range(LAYERS)),
}
MOE_COMPONENTS = DENSE_COMPONENTS | {
    f"{part}/layer{layer}"
    for part in ("shared_expert", "router", *(f"expert_{expert}" for expert in range(EXPERTS)))
    for layer in range(LAYERS)
}
GAMES = ("Catch", "MirroredCatch")
DETAILS = (*("selection_entropy", "selection_variance", "effective_experts", "selection_shift"),)
OVERALL = (
    *("usage_entropy", "most_used_expert", "least_used_expert", "dead_experts"),
    *("load_imbalance", "mutual_information"),
)
DISTANCES = ("jensen_shannon", "total_variation", "wasserstein")
PHASES = ("collect", "search", "env", "sample", "learn", "analyse", "log")


def settings(output_dir: Path, *, moe: bool) -> ExperimentConfig:
    """The conflict study on Catch, as short and small as it can be."""
    data = presets(moe=moe)["conflict_study"][1].model_dump()
    data |= {
        "output_dir": str(output_dir),
        "exp_name": "study",
        "device": "cpu",
        "precision": "fp32",
    }
    data["env"] |= {"num_envs": 4, "num_eval_envs": 4}
    data["model"] |= {"embed_dim": 16, "num_heads": 2, "num_layers": LAYERS}
    data["model"]["moe"]["num_experts"] = EXPERTS
    data["policy"] |= {"gradient_conflict_interval": INTERVAL, "batch_size": 4}
    data["policy"]["search"] |= {"num_simulations": 2, "num_eval_simulations": 2}
    lengths = {
        "max_env_steps": 240,
        "eval_interval": 240,
        "eval_episodes": 4,
        "checkpoint_interval": 120,
    }
    data["train"] |= lengths | {"log_interval": 1, "moe_log_interval": INTERVAL, "video": False}
    return ExperimentConfig.model_validate(data)


@pytest.fixture(scope="module", params=[True, False], ids=["moe", "dense"])
def run(request, tmp_path_factory) -> tuple[bool, ExperimentConfig, int]:
    """A finished run that was stopped half way and continued: whether it has experts, its config, its updates."""
    config, threads = (
        settings(tmp_path_factory.mktemp("runs"), moe=request.param),
        torch.get_num_threads(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        for module in (conflict_heatmaps, expert_log):  # how pictures look is tested elsewhere
            patch.setattr(module, "heatmap_image", lambda *_, **__: np.zeros((3, 2, 2), np.uint8))
        train_unizero_multitask_segment_ddp(config, max_env_step=120)
        result = train_unizero_multitask_segment_ddp(config)
    torch.set_num_threads(threads)
    return request.param, config, result.train_iter


@pytest.fixture(scope="module")
def events(run) -> EventAccumulator:
    """What TensorBoard reads."""
    accumulator = EventAccumulator(
        str(run[1].run_dir / "tb"), size_guidance={"scalars": 0, "images": 0}
    )
    accumulator.Reload()
    return accumulator


def plain(tagged: list[str]) -> set[str]:
    """Tags without the numbers by which TensorBoard sorts them."""
    return {tags.plain(tag) for tag in tagged}


def test_every_gradient_conflict_is_there(run, events):
    moe, config, train_iter = run
    components = MOE_COMPONENTS if moe else DENSE_COMPONENTS
    scalars = {
        f"gradient_conflict/{score}_{name}"
        for score in ("avg", "max", "rate", "null", "pairs", "reliability", "denoised")
        for name in components
    }
    assert {
        tag for tag in plain(events.Tags()["scalars"]) if tag.startswith("gradient_conflict/")
    } == scalars
    shares = {
        tag
        for tag in plain(events.Tags()["scalars"])
        if tag.startswith("gradient_conflict_norm_share/")
    }
    parts = [name for name in components if name.startswith(("expert_", "shared_", "router"))]
    assert shares == {f"gradient_conflict_norm_share/{name}" for name in parts}
    pictures = {f"gradient_conflict_matrix/{name}" for name in components}
    assert {
        tag for tag in plain(events.Tags()["images"]) if tag.startswith("gradient_conflict")
    } == pictures

    lines = [line for line in read_metrics(config.run_dir / "metrics.jsonl") if "arrays" in line]
    arrays = {"matrix": (TASKS, TASKS), "norms": (TASKS,)}
    arrays |= {"signal": (TASKS,), "half_norms": (TASKS, 2)}
    for kind, shape in arrays.items():
        for name in components:
            tag = f"gradient_conflict_{kind}/{name}"
            found = {
                line["train_iter"]: np.array(line["arrays"][tag], float)
                for line in lines
                if tag in line["arrays"]
            }
            assert set(found) == set(
                range(1, train_iter + 1, INTERVAL)
            )  # the first is the starting point
            assert all(array.shape == shape for array in found.values())


def test_every_number_and_picture_of_expert_selection_is_there(run, events):
    moe, _, _ = run
    scalars = {
        *(
            f"moe_task/{window}/{name}/{game}"
            for game in GAMES
            for window in WINDOWS
            for name in DETAILS
        ),
        *(f"moe_load/{window}/{name}" for window in WINDOWS for name in OVERALL),
        *(
            f"moe_divergence/{window}/{kind}_{name}"
            for window in WINDOWS
            for kind in ("avg", "max")
            for name in DISTANCES
        ),
    }
    pictures = {
        *(f"expert_selection/{window}" for window in WINDOWS),
        *(f"task_similarity/{window}_{name}" for window in WINDOWS for name in DISTANCES),
    }
    if moe:
        assert scalars <= plain(events.Tags()["scalars"])
        assert {
            tag for tag in plain(events.Tags()["images"]) if tag.startswith(("expert_", "task_"))
        } == pictures
    else:
        assert not any(tag.startswith("moe_") for tag in plain(events.Tags()["scalars"]))


@pytest.mark.parametrize("run", [True], ids=["moe"], indirect=True)
def test_expert_windows_go_on_when_a_run_is_continued(run):
    _, config, train_iter = run
    updates = []
    for line in read_metrics(config.run_dir / "metrics.jsonl"):
        updates += line.get("arrays", {}).get("expert_selection_updates/long", [])
    expected = []
    for step in range(INTERVAL, train_iter + 1, INTERVAL):
        expected += [step] * TASKS
    assert updates == expected


@pytest.mark.parametrize("run", [True], ids=["moe"], indirect=True)
def test_the_shift_goes_on_when_a_run_is_continued(run, events):
    """From the second log on, over the place where the run was stopped: windows only grow here, so they share selections."""
    _, config, train_iter = run
    logs = list(range(INTERVAL, train_iter + 1, INTERVAL))
    assert len(logs) > 2
    for window in WINDOWS:
        values = [
            event.value
            for event in events.Scalars(f"50_moe_task/{window}/selection_shift/{GAMES[0]}")
        ]
        assert len(values) == len(logs) - 1
        for number, value in enumerate(values, start=1):
            assert 0 <= value <= INTERVAL / logs[number] + 1e-6


def test_plasticity_and_phase_times_are_there(run, events):
    moe, _, _ = run
    logged = plain(events.Tags()["scalars"])
    assert {f"time/{phase}" for phase in PHASES} <= logged
    for quantity in (
        "dormant_ratio",
        "weight_norm",
        "gradient_norm",
        *(["router_entropy"] if moe else []),
    ):
        assert any(tag.startswith(f"plasticity/{quantity}/") for tag in logged), quantity
    for quantity in ("latent_norm", "effective_rank"):
        assert {f"health/{quantity}/{game}" for game in ("Catch", "MirroredCatch")} <= logged
