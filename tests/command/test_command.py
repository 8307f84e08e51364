"""``lzero``: its table of commands, and that help is there before anything heavy is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lzero
from lzero.command import main as command
from lzero.command.main import COMMANDS, main
from lzero.command.sweep_file import read_sweep
from lzero.console.config_files import read_config_file
from lzero.console.domains import domains
from lzero.entry import cli
from lzero.entry.eval_unizero_multitask import main as evaluate

ROOT = Path(lzero.__file__).parents[1]
LIGHT = """
import contextlib, io, json, sys
from lzero.command.main import main
said = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    said.append(out.getvalue())
print(json.dumps([said, "torch" in sys.modules]))
"""
ASKED = (
    ["--help"],
    ["train", "--help"],
    ["train", "atari-moe", "cpu", "--help"],
    ["train", "catch-ppo", "both", "--seed", "7", "--print-config"],
    ["list"],
    ["list", "atari"],
    ["sweep", "--help"],
)


@pytest.fixture(scope="module")
def light() -> tuple[list[str], bool]:
    """What is printed for all of ASKED by one program from another folder, and whether torch was loaded in it."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(ASKED)],
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said, has_torch = json.loads(done.stdout.splitlines()[-1])
    return said, has_torch


def test_help_lists_and_configs_come_without_torch(light):
    assert not light[1]


def test_help_names_every_command_and_every_domain(light):
    top, train, *_ = light[0]
    assert [name for name in COMMANDS if f"\n  {name} " not in top] == []
    assert [name for name in domains() if f"\n  {name} " not in train] == []


def test_the_list_has_domains_presets_and_games(light):
    everything, atari = light[0][4:6]
    for name, row in domains().items():
        assert f"\n{name}: {row.about}" in f"\n{everything}"
        for preset, (about, _) in row.load_presets().items():
            assert preset in everything and about in everything
    assert "all: lzero list atari" in everything
    assert "Zaxxon" in atari and "catch" not in atari


def test_a_printed_config_is_the_whole_experiment(light):
    printed = json.loads(light[0][3])
    assert printed.pop("seed") == 7
    assert printed == domains()["catch-ppo"].load_presets()["both"][1].model_dump(mode="json")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_with_a_main(name):
    file = ROOT.joinpath(*COMMANDS[name].module.split(".")).with_suffix(".py")
    if name != "export" or file.is_file():
        assert "\ndef main(argv: Sequence[str]" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", domains())
def test_every_row_of_domains_has_what_it_names(name):
    row = domains()[name]
    presets, default = row.load_presets(), row.default_preset()
    assert (default if isinstance(default, str) else default()) in presets
    for _, config in presets.values():
        assert config.env.domain == row.domain and set(config.env.games) <= set(row.games())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "atari_moe"], "unknown domain 'atari_moe'; did you mean 'atari-moe'?"),
        (["train", "--seed", "1"], "name a domain first"),
        (["train", "catch", "bothh"], "unknown preset 'bothh'; did you mean 'both'?"),
        (["list", "catsh"], "unknown domain 'catsh'"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["eval", "no/where"], "where does not exist"),
        (["experts", "no/where"], "where does not exist"),
        (["report", "no/where"], "where does not exist"),
    ],
)
def test_mistakes_are_one_line(words, says):
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = str(ended.value.code)
    assert said.startswith("error: ") and says in said and "\n" not in said


def test_a_missing_command_says_so(monkeypatch):
    gone = command.Command("gone", "lzero gone", "lzero.command.gone")
    monkeypatch.setitem(COMMANDS, "gone", gone)
    with pytest.raises(SystemExit, match="lzero gone is not part of this installation"):
        main(["gone"])


def test_train_hands_on_what_was_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "train", asked.append)
    main(["train", "catch-moe", "blind", "--seed", "4", "--policy.batch-size", "9"])
    [command_line] = asked
    assert command_line.seed == 4 and command_line.config.policy.batch_size == 9
    assert command_line.config.exp_name == "catch_blind_moe"


def test_evaluating_without_the_gpu_that_was_asked_for_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="^error: device='cuda', but torch"):
        evaluate([str(tmp_path), "--device", "cuda"])


PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "answer"), re.findall(r"^\$ lzero (.+)\n(error: .+)$", PAGE, re.MULTILINE)
)
def test_the_page_shows_what_is_said(line, answer):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == answer


def test_the_pages_files_are_read(tmp_path):
    experiment, rates = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(experiment)
    found = read_config_file(tmp_path / "mine.yaml")
    assert found.config.exp_name == "two_games" and found.seed == 3
    (tmp_path / "rates.yaml").write_text(rates)
    runs = read_sweep(tmp_path / "rates.yaml").runs
    assert len(runs) == 12 and f"`{runs[0].name}`" in PAGE


def test_the_page_names_every_command():
    assert [name for name in COMMANDS if f"| `lzero {name} " not in PAGE] == []
