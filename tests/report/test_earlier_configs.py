"""Seeds that were started before domains owned their settings, and after, are one experiment."""

import json
from pathlib import Path
from typing import Any

from lzero.config_sections import ONCE_IN_EVERY_CONFIG
from lzero.envs.domain import with_domain_settings
from lzero.report.run_data import group_runs, read_run


def run(folder: Path, domain: str, game: str, **env: Any) -> Path:
    """A run's folder with a config of today, to which ``env`` is added as it was written once."""
    folder.mkdir()
    config = with_domain_settings(
        {"exp_name": folder.name, "env": {"domain": domain, "games": [game]}}
    )
    written = config.model_dump(mode="json")
    written["env"] |= env
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
    atari = ("zoo.atari.domain:ATARI", "Krull")
    before = run(tmp_path / "a_s0", *atari, **ONCE_IN_EVERY_CONFIG | {"minimal_actions": True})
    after = run(tmp_path / "a_s1", *atari)
    labels = [group.label for group in group_runs([read_run(before), read_run(after)])]
    assert labels == ["a (env.minimal_actions=True)", "a (env.minimal_actions=False)"]
