"""Seeds that were started before domains owned their settings, and after, are one experiment."""

import json
from pathlib import Path
from typing import Any

from lzero.config_sections import ONCE_IN_EVERY_CONFIG
from lzero.envs.domain import with_domain_settings
from lzero.report.run_data import group_runs, read_run
from zoo.catch.config.ppo_presets import ppo_presets

ATARI = ("zoo.atari.domain:ATARI", "Krull")


def run(folder: Path, domain: str, game: str, **env: Any) -> Path:
    """A run's folder with a config of today, to which ``env`` is added as it was written once."""
    config = with_domain_settings(
        {"exp_name": folder.name, "env": {"domain": domain, "games": [game]}}
    )
    written = config.model_dump(mode="json")
    written["env"] |= env
    return write(folder, written)


def write(folder: Path, written: dict[str, Any]) -> Path:
    """A run's folder with a config and no metrics."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("", encoding="utf-8")
    return folder


def test_they_are_seeds_of_one_experiment(tmp_path):
    for domain, game in (("zoo.atari.domain:ATARI", "Krull"), ("zoo.catch.domain:CATCH", "Catch")):
        before = run(tmp_path / f"{game}_s0", domain, game, **ONCE_IN_EVERY_CONFIG)
        after = run(tmp_path / f"{game}_s1", domain, game)
        [group] = group_runs([read_run(before), read_run(after)])
        assert group.label == game and len(group.runs) == 2


def test_other_values_of_a_domains_own_setting_tell_them_apart(tmp_path):
    before = run(tmp_path / "a_s0", *ATARI, **ONCE_IN_EVERY_CONFIG | {"minimal_actions": True})
    after = run(tmp_path / "a_s1", *ATARI)
    labels = [group.label for group in group_runs([read_run(before), read_run(after)])]
    assert labels == ["a (env.minimal_actions=True)", "a (env.minimal_actions=False)"]


def test_dense_blocks_had_gelu_before_there_was_another(tmp_path):
    def dense(name: str, kind: str | None) -> Path:
        domain, game = ATARI
        env = {"domain": domain, "games": [game]}
        model = {"moe": {"enabled": False}, "mlp_kind": kind or "gelu"}
        config = with_domain_settings({"exp_name": name, "env": env, "model": model})
        written = config.model_dump(mode="json")
        if kind is None:
            del written["model"]["mlp_kind"]
        return write(tmp_path / name, written)

    runs = [read_run(dense("a_s0", None)), read_run(dense("a_s1", "gelu"))]
    [group] = group_runs(runs)
    assert len(group.runs) == 2
    other = read_run(dense("a_s2", "swiglu"))
    labels = [group.label for group in group_runs([*runs, other])]
    assert labels == ["a (model.mlp_kind=gelu)", "a (model.mlp_kind=swiglu)"]


def test_an_experiment_of_another_algorithm_has_no_dense_blocks(tmp_path):
    folder = write(tmp_path / "ppo", ppo_presets()["both"][1].model_dump(mode="json"))
    assert "model.mlp_kind" not in read_run(folder).fields
