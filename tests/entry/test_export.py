"""An exported agent plays, is filmed and analysed as its checkpoint; what does not fit is refused in one line."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as bytes_of_tensors

from lzero.analysis.expert_analysis import ExpertAnalysis
from lzero.checkpoint import CheckpointManager
from lzero.checkpoint.export_file import (
    AGENT_FILE,
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    ExportError,
    read_export,
    write_export,
)
from lzero.config import ExperimentConfig
from lzero.entry import export as command
from lzero.entry.analyse_experts import analyse_experts
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask
from lzero.entry.export import export_agent
from lzero.envs.domain import with_domain_settings
from lzero.policy import UniZeroMTPolicy
from zoo.catch.config.presets import presets

EPISODES = 3
GAMES = ("Catch", "MirroredCatch")


def small() -> ExperimentConfig:
    data = presets(moe=True)["both"][1].model_dump()
    data["exp_name"], data["output_dir"], data["device"] = "small", "/somewhere/else", "cpu"
    data["env"] |= {"num_envs": 4, "num_eval_envs": EPISODES}
    data["model"] |= {"embed_dim": 16, "num_heads": 2}
    data["model"]["moe"]["num_experts"] = 3
    data["policy"]["search"] |= {"num_simulations": 3, "num_eval_simulations": 3}
    return with_domain_settings(data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """What a run leaves, but for the training: a checkpoint of random weights, whose two networks differ."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    config = small()
    torch.manual_seed(5)
    policy = UniZeroMTPolicy(config, (2, 8, 5), np.ones((2, 3), bool))
    for parameter in policy.target.parameters():
        parameter.mul_(0.5)
    tensors = policy.state_dict()
    counters = {name: int(value) for name, value in tensors.pop("counters").items()}
    state = counters | {
        "train_iter": 12,
        "env_steps": 480,
        "seed": 4,
        "world_size": 1,
        "config": config.model_dump(mode="json"),
        "observation_shape": [2, 8, 5],
        "legal_actions": np.ones((2, 3), bool).tolist(),
    }
    CheckpointManager(folder / "checkpoints").save(12, tensors, state)
    return folder


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory) -> Path:
    """The export of the evaluated run."""
    eval_unizero_multitask(run_dir, episodes=EPISODES, seed=2, video=False, device="cpu")
    out = tmp_path_factory.mktemp("out") / "small.zip"
    digest = export_agent(run_dir, out, command="make small", notes=["Never trained."])
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()
    return out


def test_the_same_checkpoint_gives_the_same_bytes(run_dir, exported, tmp_path):
    again = tmp_path / "again.zip"
    checkpoint = run_dir / "checkpoints" / "step_000012"
    export_agent(checkpoint, again, command="make small", notes=["Never trained."])
    assert again.read_bytes() == exported.read_bytes()


def test_an_export_scores_as_its_checkpoint_and_stays_as_it_is(run_dir, exported):
    before = exported.read_bytes()
    of_run = json.loads((run_dir / "evaluation.json").read_text())
    table = eval_unizero_multitask(exported, episodes=EPISODES, seed=2, device="cpu")
    assert {game: scores.tolist() for game, scores in table.scores.items()} == of_run["scores"]
    results = exported.with_name("small_results")
    report = json.loads((results / "evaluation.json").read_text())
    assert report == of_run | {"checkpoint": "small.zip"}
    films = sorted(path.name for path in (results / "videos" / "evaluation").iterdir())
    assert films == ["Catch.mp4", "MirroredCatch.mp4"]
    assert exported.read_bytes() == before


def test_the_policy_is_the_checkpoints(run_dir, exported):
    from safetensors.torch import load_file

    stored = load_file(run_dir / "checkpoints" / "step_000012" / "model.safetensors")
    policy = UniZeroMTPolicy.from_export(exported, device="cpu")
    assert policy.train_iter == 12 and policy.config.env.games == GAMES
    for network in (policy.model, policy.target):
        found = network.state_dict()
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


def test_the_card_says_what_is_known_and_no_more(run_dir, exported, tmp_path, caplog):
    export = read_export(exported)
    for game in GAMES:
        scores = np.array(export.scores["scores"][game])
        [line] = [line for line in export.card.splitlines() if line.startswith(f"| {game} |")]
        error = scores.std() / np.sqrt(EPISODES)
        assert f"| {scores.mean():.3f} ± {error:.3f} | {scores.std():.3f} | 3 |" in line
    for said in ("480 env steps", "12 updates", "seed 4", "`make small`", "Never trained."):
        assert said in export.card
    assert "Only 3 episodes" in export.card and "Nobody has stated one" in export.card
    assert "/somewhere/else" not in export.card + json.dumps(export.config)
    kept = (run_dir / "evaluation.json").read_text()
    (run_dir / "evaluation.json").write_text(kept.replace("step_000012", "step_000011"))
    try:
        export_agent(run_dir, tmp_path / "other.zip")
    finally:
        (run_dir / "evaluation.json").write_text(kept)
    other = read_export(tmp_path / "other.zip")
    assert other.scores is None and "No evaluation of this checkpoint" in other.card
    assert "no evaluation of" in caplog.text


def test_experts_are_analysed_on_windows_that_the_agent_plays(exported, tmp_path):
    quick = {"windows": 5, "permutations": 9, "device": "cpu", "output_dir": tmp_path / "deep"}
    analysis = analyse_experts(exported, episodes=1, **quick)
    written = ExpertAnalysis.read(tmp_path / "deep" / "expert_analysis.json")
    assert written.windows_from == "play" and written.checkpoint == "small.zip"
    assert np.bincount(analysis.task).tolist() == [5, 5] and analysis.env_steps == 480
    parts = [*(f"expert_{expert}" for expert in range(3)), "routed_experts", "shared_expert"]
    assert [ablation.part for ablation in analysis.ablations] == parts
    assert max(np.abs(ablation.loss).max() for ablation in analysis.ablations) > 1e-4
    again = analyse_experts(exported, **quick)
    assert again.loss.tolist() == analysis.loss.tolist()


def forged(exported: Path, folder: Path, **changes: object) -> Path:
    """An export with another config or tensors, whose hashes are right."""
    export = read_export(exported)
    config = json.loads(json.dumps(export.config))
    tensors = dict(export.tensors)
    for place, value in changes.items():
        if isinstance(value, torch.Tensor):
            tensors[place.replace("__", ".")] = value
        else:
            *sections, field = place.split("__")
            node = config
            for section in sections:
                node = node[section]
            node[field] = value
    files = {
        CARD_FILE: export.card.encode(),
        AGENT_FILE: export.agent.model_dump_json().encode(),
        CONFIG_FILE: json.dumps(config).encode(),
        MODEL_FILE: bytes_of_tensors(tensors),
    }
    write_export(folder / "forged.zip", files, force=True)
    return folder / "forged.zip"


def test_what_does_not_fit_is_refused_in_one_line(exported, tmp_path):
    name = "world_model.transformer.norm.weight"
    model = read_export(exported).tensors
    some = name if name in model else next(iter(model))
    key = some.replace(".", "__")
    cases = (
        (ExportError, "num_heads", {"model__num_heads": 3}),
        (ExportError, "config.json", {"model": 7}),
        (ExportError, "do not fit its config", {"model__embed_dim": 32}),
        # 2 TiB for whoever makes the network before looking at the tensors
        (ExportError, "do not fit its config", {"model__embed_dim": 2**19}),
        (ExportError, "num_layers=1,000,000,000", {"model__num_layers": 10**9}),
        (ExportError, "is of the file alone", {"one_more": torch.ones(1)}),
        (ExportError, "no numbers", {key: torch.full_like(model[some], torch.nan)}),
        (ExportError, "float64", {key: model[some].double()}),
        (ValueError, "--allow-domain os:path", {"env__domain": "os:path"}),
    )
    for kind, says, changes in cases:
        path = forged(exported, tmp_path, **changes)
        with pytest.raises(kind, match=says) as caught:
            UniZeroMTPolicy.from_export(path, device="cpu")
        assert "\n" not in str(caught.value)
    # nothing of an allowed domain is imported to load the agent
    path = forged(exported, tmp_path, env__domain="nobody.knows:IT")
    UniZeroMTPolicy.from_export(path, device="cpu", allow_domains=["nobody.knows:IT"])


def test_the_command_refuses_in_one_line(run_dir, exported, tmp_path, monkeypatch):
    before = exported.read_bytes()
    cases = (
        ([str(tmp_path / "nowhere"), str(tmp_path / "a.zip")], "does not exist"),
        ([str(run_dir), str(exported)], "exists; name another file, or replace it with --force"),
        ([str(exported), str(tmp_path / "a.zip")], "is a file; name a run's folder"),
        ([str(run_dir), str(tmp_path / "nowhere" / "a.zip")], "is no folder; make it first"),
    )
    for arguments, says in cases:
        with pytest.raises(SystemExit, match=says) as ended:
            command.main(arguments)
        assert str(ended.value).startswith("error: ") and "\n" not in str(ended.value)
    assert exported.read_bytes() == before and not (tmp_path / "a.zip").exists()
    monkeypatch.setattr(command, "load_state", lambda path: {"config": {"algorithm": "ppo"}})
    with pytest.raises(SystemExit, match="is of PPO: only UniZero agents can be exported"):
        command.main([str(run_dir), str(tmp_path / "a.zip")])
