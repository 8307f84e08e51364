"""The command line: presets, overrides, help, and what it says to mistakes."""

import logging
import re
import runpy
from pathlib import Path

import pytest
from pydantic import BaseModel

from lzero.checkpoint import CheckpointError
from lzero.config import EnvConfig, ExperimentConfig, GameOverride
from lzero.config_sections import ONCE_IN_EVERY_CONFIG
from lzero.entry import TrainResult, cli
from lzero.entry.checkpointing import RunError
from lzero.entry.cli import CommandLine, main, parse
from zoo.atari.config.presets import presets
from zoo.atari.domain import AtariEnvConfig
from zoo.catch.config.presets import presets as catch_presets
from zoo.minatar.config.presets import presets as minatar_presets

PRESETS = presets(moe=True)
GAME, OTHER = PRESETS["cpu"][1].env.games
CAPACITY = PRESETS["cpu"][1].policy.replay.capacity
NAMES = tuple(PRESETS)
STICKY, MINIMAL = "--env.sticky-action-probability", "--env.minimal-actions"
OWN = {
    "atari": (PRESETS, ("--env.frame-skip", "--env.noop-max", STICKY, MINIMAL)),
    "minatar": (minatar_presets(moe=True), (STICKY, MINIMAL, "--env.difficulty-ramping")),
    "catch": (catch_presets(moe=True), ()),
}
"""By domain its presets, and which options it alone has of those that the zoo's domains have."""


def leaves(config: BaseModel, path: str = "") -> dict[str, str]:
    """Description of every field that is no group, by its path."""
    found = {}
    for name, field in type(config).model_fields.items():
        here, value = f"{path}.{name}".strip("."), getattr(config, name)
        if isinstance(value, BaseModel):
            found |= leaves(value, here)
        else:
            found[here] = field.description
    return found


def squeezed(text: str) -> str:
    """Without the blanks, line breaks and frames that fit a text into a terminal."""
    return re.sub(r"[\s│]+", "", text)


def refusal(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """What the command line says before it ends with an error."""
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, "cpu", argv)
    assert ended.value.code not in (0, None)
    said = capsys.readouterr()
    return said.out + said.err + (ended.value.code if isinstance(ended.value.code, str) else "")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_taken_as_it_is(name):
    assert parse(PRESETS, "cpu", [name]) == CommandLine(PRESETS[name][1])


@pytest.mark.parametrize("default", ["cpu", "atari8"])
def test_without_a_preset_the_default_is_taken(default):
    assert parse(PRESETS, default, []).config == PRESETS[default][1]
    command = parse(PRESETS, default, ["--policy.batch-size", "7"])
    assert command.config.policy.batch_size == 7
    assert command.config.exp_name == PRESETS[default][1].exp_name


def test_overrides_change_their_fields_alone():
    argv = [
        "atari3",
        "--env.games",
        "Boxing",
        "Pong",
        "--policy.search.num-simulations",
        "50",
        "--precision",
        "fp32",
    ]
    argv += [
        "--model.encoder.widths",
        "8",
        "16",
        "24",
        "--model.moe.no-enabled",
        "--train.no-video",
        "--output-dir",
        "there",
    ]
    command = parse(PRESETS, "cpu", [*argv, "--seed", "3", "--resume", "never"])
    expected = PRESETS["atari3"][1].model_dump()
    expected["env"]["games"] = ("Boxing", "Pong")
    expected["policy"]["search"]["num_simulations"] = 50
    expected["precision"] = "fp32"
    expected["model"]["encoder"]["widths"] = (8, 16, 24)
    expected["model"]["moe"]["enabled"] = False
    expected["train"]["video"] = False
    expected["output_dir"] = Path("there")
    assert command.config.model_dump() == expected
    assert (command.seed, command.resume) == (3, "never")


@pytest.mark.parametrize("domain", OWN)
def test_help_explains_every_field(capsys, domain):
    """The domain's own settings included, and no other's."""
    made, own = OWN[domain]
    [name, *_] = made
    with pytest.raises(SystemExit) as ended:
        parse(made, name, [name, "--help"])
    assert ended.value.code == 0
    text = squeezed(capsys.readouterr().out)
    fields = leaves(made[name][1])
    assert len(fields) > 70
    settings = {f"--env.{setting.replace('_', '-')}" for setting in ONCE_IN_EVERY_CONFIG}
    assert {setting for setting in settings if setting in text} == set(own)
    fields.pop("env.overrides")  # given by --game-overrides, one exception at a time
    assert "--game-overrides" in text
    assert [name for name in GameOverride.model_fields if name not in text] == []
    options = {f"--{name.replace('_', '-')}": description for name, description in fields.items()}
    assert [option for option in options if option not in text] == []
    assert [
        option for option, description in options.items() if squeezed(description) not in text
    ] == []


@pytest.mark.parametrize("read", [True, False], ids=["read by its domain", "as written"])
def test_a_domains_settings_are_set_as_typed(read):
    """Presets may be plain configs: the command line has their domains read them."""
    made = PRESETS
    if not read:
        data = PRESETS["cpu"][1].model_dump()
        made = {"cpu": ("two games", ExperimentConfig.model_validate(data))}
        assert type(made["cpu"][1].env) is EnvConfig
    argv = ["--env.no-minimal-actions", "--env.frame-skip", "3", "--env.max-episode-steps", "27000"]
    config = parse(made, "cpu", [*argv, "--env.games", "Krull", "--env.noop-max", "0"]).config
    expected = PRESETS["cpu"][1].env.model_dump()
    expected |= {"minimal_actions": False, "frame_skip": 3, "max_episode_steps": 27_000}
    assert config.env == AtariEnvConfig(**expected | {"games": ("Krull",), "noop_max": 0})


def test_the_script_of_one_domain_plays_another(capsys):
    """Where a domain has no script of its own; settings that it does not have stay behind."""
    argv = ["--env.domain", "zoo.catch.domain:CATCH", "--env.games", "Catch", "--env.num-envs", "3"]
    env = parse(PRESETS, "cpu", argv).config.env
    assert type(env) is EnvConfig and (env.games, env.num_envs) == (("Catch",), 3)
    assert "unknown game 'Krull' of zoo.catch.domain:CATCH" in refusal(capsys, *argv[:2])


def test_help_without_a_preset_lists_the_presets(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(PRESETS, "cpu", ["--help"])
    assert ended.value.code == 0
    text = squeezed(capsys.readouterr().out)
    for name, (line, _) in PRESETS.items():
        assert squeezed(name + line) in text
    assert (
        squeezed("(the default here)") in text
        and squeezed("PRESET --help lists all fields") in text
    )


@pytest.mark.parametrize(
    ("argv", "needles"),
    [
        (
            ("--policy.search.num-simulation", "3"),
            ("--policy.search.num-simulation", "--policy.search.num-simulations"),
        ),
        (("cpu", "--model.moe.top_kk", "3"), ("--model.moe.top", "--model.moe.top-k")),
        (("atari88",), ("'atari88'", "did you mean 'atari8'?")),
        (("--env.games", "Pong", "Seequest"), ("'Seequest'", "did you mean 'Seaquest'?")),
        (("--env.frame-skip", "0"), ("error: env.frame_skip=0: Input should be greater than 0",)),
        (("--env.domain", "zoo.atary:A"), ("error: env.domain='zoo.atary:A' cannot be imported",)),
        (("--env.difficulty-ramping",), ("error: unrecognized option --env.difficulty-ramping;",)),
        (("--model.num-heads", "7"), ("model.num_heads=7", "model.embed_dim=128", "try 8")),
        (("--model.moe.top-k", "9"), ("moe.top_k=9", "moe.num_experts=8")),
        (
            ("--train.eval-interval", "0"),
            ("error: train.eval_interval=0: Input should be greater than 0",),
        ),
        (("--seed", "-1"), ("error: --seed -1: use a number from 0 to 2^63 - 1",)),
        (("--seed", str(2**64)), (f"error: --seed {2**64}: use a number",)),
        (("--exp-name", "../x"), ("error: exp_name='../x': it is one folder's name; the place",)),
        (("--policy.replay-ratio", "inf"), ("policy.replay_ratio=inf", "finite number")),
        (("--policy.batch-size", "many"), ("--policy.batch-size", "many")),
        (("--device", "gpu"), ("--device", "gpu", "auto", "cpu", "cuda")),
        (
            ("--policy.batch-size", "50000"),
            ("policy.batch_size=50000", f"policy.replay.capacity={CAPACITY}"),
        ),
    ],
)
def test_mistakes_are_refused_by_name(capsys, argv, needles):
    text = squeezed(refusal(capsys, *argv))
    assert "pydantic.dev" not in text and "dummy" not in text
    assert [needle for needle in needles if squeezed(needle) not in text] == []


def test_game_overrides():
    changes = (f"{GAME}.batch_size=4", f"{OTHER}.clip-reward=false", f"{GAME}.num_envs=2")
    command = parse(PRESETS, "cpu", ["--game-overrides", *changes])
    assert command.config.env.overrides == {
        GAME: GameOverride(batch_size=4, num_envs=2),
        OTHER: GameOverride(clip_reward=False),
    }
    assert command.config.batch_size_of(GAME) == 4
    assert command.config.batch_size_of(OTHER) == PRESETS["cpu"][1].policy.batch_size


def test_game_overrides_add_to_those_of_the_preset():
    last = PRESETS["atari26"][1].env.games[-1]
    config = parse(
        PRESETS, "cpu", ["atari26", "--game-overrides", f"{last}.num_envs=2", "Pong.batch_size=1"]
    ).config
    assert config.env.overrides[last] == GameOverride(batch_size=19, num_envs=2)
    assert config.env.overrides["Pong"] == GameOverride(batch_size=1)


@pytest.mark.parametrize(
    ("override", "needles"),
    [
        (GAME, (f"'{GAME}'", "Game.field=value", "Pong.batch_size=16")),
        (f"{GAME}.batch_size", (f"'{GAME}.batch_size'", "Game.field=value")),
        ("batch_size=4", ("'batch_size=4'", "Game.field=value")),
        (f"{GAME}.batchsize=4", (GAME, "'batchsize'", "did you mean 'batch_size'?")),
        (f"{GAME}.batch_size=x", (f"{GAME}.batch_size", "'x'", "integer")),
        (f"{GAME}.batch_size=0", (f"{GAME}.batch_size", "'0'", "greater than 0")),
        (f"{GAME}.clip_reward=perhaps", (f"{GAME}.clip_reward", "'perhaps'", "boolean")),
        (f"{GAME}o.batch_size=4", (f"'{GAME}o'", f"did you mean '{GAME}'?")),
        (f"{GAME}.batch_size=50000", (f"50000 of {GAME}", f"policy.replay.capacity={CAPACITY}")),
    ],
)
def test_bad_game_overrides_get_one_clear_line(capsys, override, needles):
    text = refusal(capsys, "--game-overrides", override)
    assert text.startswith("error: --game-overrides: ") and "\n" not in text
    assert [needle for needle in needles if needle not in text] == []
    assert "pydantic" not in text


def test_only_the_studys_ablations_of_experts_and_of_the_activation_have_no_twin():
    assert set(PRESETS) - set(presets(moe=False)) == {
        "conflict_study_shared_only",
        "conflict_study_no_shared",
    }
    assert set(presets(moe=False)) - set(PRESETS) == {"conflict_study_gelu"}


@pytest.mark.parametrize("name", sorted(set(PRESETS) & set(presets(moe=False))))
def test_the_dense_twin_differs_in_its_blocks_alone(name):
    line, config = PRESETS[name]
    twin_line, twin = presets(moe=False)[name]
    expected = config.model_dump()
    assert expected["model"]["moe"]["enabled"] and twin.exp_name != config.exp_name
    expected["model"]["moe"]["enabled"] = False
    expected["exp_name"] = twin.exp_name
    assert twin.model_dump() == expected
    assert twin_line == line


@pytest.mark.parametrize(("suffix", "moe"), [("_moe", True), ("", False)])
def test_scripts_offer_their_own_presets(monkeypatch, suffix, moe):
    script = (
        Path(__file__).parents[2]
        / f"zoo/atari/config/atari_unizero_multitask_segment_ddp_config{suffix}.py"
    )
    calls = []
    monkeypatch.setattr(cli, "main", lambda *arguments: calls.append(arguments))
    runpy.run_path(str(script), run_name="__main__")
    [(offered, default)] = calls
    assert offered == presets(moe=moe)
    assert default in offered


def test_main_trains_what_was_asked_for(monkeypatch, caplog, tmp_path):
    calls = []

    def train(config, **options):
        calls.append((config, options))
        return TrainResult(tmp_path / "a b", 1, 2, {}, {})

    monkeypatch.setattr(cli, "train_unizero_multitask_segment_ddp", train)
    with caplog.at_level(logging.INFO, "lzero.entry.cli"):
        result = main(PRESETS, "cpu", ["--seed", "5", "--resume", "never", "--exp-name", "mine"])
    [(config, options)] = calls
    assert config.exp_name == "mine" and options == {"seed": 5, "resume": "never"}
    assert result.train_iter == 2
    assert f"tensorboard --logdir '{tmp_path}/a b/tb'" in caplog.text


@pytest.mark.parametrize("error", [RunError("choose another exp_name"), CheckpointError("damaged")])
def test_expected_failures_end_in_one_line(monkeypatch, error):
    def train(config, **options):
        raise error

    monkeypatch.setattr(cli, "train_unizero_multitask_segment_ddp", train)
    with pytest.raises(SystemExit, match=f"^error: {error}$"):
        main(PRESETS, "cpu", [])


def test_ctrl_c_while_the_command_line_is_read_is_no_traceback(monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    with pytest.raises(SystemExit) as end:
        main(PRESETS, "cpu", [])
    assert end.value.code == 130
