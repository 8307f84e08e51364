"""Experiments travel in files: what is printed is read again as the same, a run's own file with its seed."""

import json

import pytest
import yaml

from lzero.console.command_line import parse
from lzero.console.config_files import ConfigFileError, read_config_file, written
from lzero.console.domains import domains
from zoo.catch.config.presets import presets

PRESETS = presets(moe=True)
EXPERIMENTS = {
    f"{domain}-{name}": config
    for domain, row in domains().items()
    for name, (_, config) in row.load_presets().items()
}


def refusal(*argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, "both", argv)
    said = str(ended.value.code)
    assert said.startswith("error: ") and "\n" not in said
    return said


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_preset_comes_back_as_it_was_written(tmp_path, name, form):
    file = tmp_path / f"experiment.{form}"
    file.write_text(written(EXPERIMENTS[name], 3, form), encoding="utf-8")
    found = read_config_file(file)
    assert found.config == EXPERIMENTS[name] and found.seed == 3
    assert type(found.config.env) is type(EXPERIMENTS[name].env)


def test_overrides_come_after_the_file_and_are_printed_with_it(tmp_path, capsys):
    file = tmp_path / "a b.yaml"
    file.write_text("# by hand\nseed: 5\nexp_name: mine\npolicy: {batch_size: 48}\n")
    command = parse(PRESETS, "both", ["--config", str(file), "--policy.unroll-steps", "12"])
    policy = command.config.policy
    assert (policy.batch_size, policy.unroll_steps, command.seed) == (48, 12, 5)
    assert command.config.env.domain == "zoo.atari.domain:ATARI", "what is left out has its default"
    more = [f"--config={file}", "--seed", "6", "--game-overrides", "Pong.num_envs=2"]
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, "both", [*more, "--print-config", "yaml"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["env"]["overrides"]["Pong"]["num_envs"] == 2 and printed["seed"] == 6
    assert printed["exp_name"] == "mine"


def test_an_experiment_of_another_algorithm_is_read_as_its_own(tmp_path):
    file = tmp_path / "ppo.json"
    config = EXPERIMENTS["catch-ppo-both"]
    file.write_text(config.model_dump_json())
    assert parse(PRESETS, "both", ["--config", str(file)]).config == config


def test_a_runs_own_file_brings_its_seed(tmp_path):
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step_000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"seed": 11}))
    config = PRESETS["blind"][1]
    (run / "config.json").write_text(config.model_dump_json())
    for typed in (run, run / "config.json", checkpoint):
        command = parse(PRESETS, "both", ["--config", str(typed)])
        assert (command.config, command.seed) == (config, 11)
    assert parse(PRESETS, "both", ["--config", str(run), "--seed", "2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("policy: {learning_rate: 1}", "policy: .*learning_rate is policy.optimiser.learning_rate"),
        ("policy: {search: {num_simulation: 1}}", "policy.search: .*did you mean 'num_simul"),
        ("num_simulations: 5", "num_simulations is policy.search.num_simulations here"),
        ("train: {max_env_steps: 1e6}", "train.max_env_steps='1e6': .*write 1000000"),
        ("env: {clip_reward: perhaps}", "env.clip_reward='perhaps': .*write true or false"),
        ("env: {games: Pong}", r"env.games='Pong': .*write a list: \[Pong\]"),
        ("env: {games: [Pongg]}", "unknown game 'Pongg'.*did you mean 'Pong'"),
        ("device: cudaa", "device='cudaa': .*did you mean 'cuda'"),
        ("policy: 3", "policy=3: "),
        ("", "write keys and values"),
    ],
)
def test_bad_files_are_one_line_with_file_key_and_way_out(tmp_path, text, says):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigFileError, match=f"mine.yaml.*{says}") as caught:
        read_config_file(file)
    assert "\n" not in str(caught.value)
    assert f"error: --config {file}" in refusal("--config", str(file))


def test_a_files_strange_domain_runs_only_if_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "cards.py").write_text(
        "class Cards:\n    games = ('Solitaire',)\nCARDS = Cards()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "x.yaml"
    file.write_text("env: {domain: 'cards:CARDS', games: [Solitaire]}")
    asked = ["--config", str(file)]
    assert "--allow-domain cards:CARDS" in refusal(*asked)
    config = parse(PRESETS, "both", [*asked, "--allow-domain", "cards:CARDS"]).config
    assert config.env.games == ("Solitaire",)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["both", "--config", "x.yaml"], "'both': write a preset or --config FILE, not both"),
        (["--config"], "--config: name a file"),
        (["--print-config=toml"], "--print-config toml: allowed are json and yaml"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--policy.lerning-rate", "1"], "did you mean --policy.optimiser.learning-rate?"),
        (["--num-simulations=3"], "num-simulations is --policy.search.num-simulations here"),
        (["--search.kind", "puct"], "--search.kind; "),
        (["--model.moe", "3"], "it is a group of options: --model.moe.enabled"),
        (["--train.max-env-steps", "1e6"], "write 1000000"),
        (["--policy.optimiser.learning-rate", "small"], "allowed are numbers; write a number"),
        (["--env.clip-reward", "False"], "a switch has no value; write --env.no-clip-reward"),
        (["--env.no-clip-reward", "False"], "write --env.clip-reward"),
        (["--train.video=yes"], "write --train.video"),
        (["--train.no-vido"], "did you mean --train.no-video?"),
        (["--device", "gpu"], "--device gpu: allowed are auto, cpu, cuda"),
        (["--update-per-collect", "3"], "follows from policy.replay_ratio"),
    ],
)
def test_mistyped_options_are_one_line(argv, says):
    assert says in refusal(*argv)
