"""The page for people who come from LightZero says what is so."""

import importlib
import re
from pathlib import Path

import lzero
import lzero.lightzero as adapters
from lzero.lightzero.keys import as_markdown, keys
from lzero.lightzero_keys import LIGHTZERO_KEYS

ROOT = Path(lzero.__file__).parents[1]
PAGE = (ROOT / "docs" / "coming_from_lightzero.md").read_text(encoding="utf-8")


def test_the_table_of_keys_is_that_of_the_code():
    """After a change: put what ``as_markdown()`` gives at the end of the page."""
    assert PAGE.split("## Keys\n", 1)[1].split("\n\n", 1)[1] == as_markdown() + "\n"


def test_the_recipe_translates():
    [block] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    found = {}
    exec(block, found)
    config = found["translation"].experiment
    assert config.env.games == ("Pong", "Boxing") and config.policy.replay_ratio == 0.25
    assert config.exp_name == "two_games" and config.train.max_env_steps == 400_000


def test_names_and_files_of_the_page_exist():
    prose = PAGE.split("## Keys\n")[0]
    for path in re.findall(r"`((?:zoo|lzero|docs)/[\w/]+\.py)`|\]\(([\w.]+\.md)\)", prose):
        place = path[0] or f"docs/{path[1]}"
        assert (ROOT / place).exists(), place
    table = prose.split("## Names of functions")[1].split("## What differs")[0]
    ours = [line.split("|")[3] for line in table.splitlines() if line.startswith("| `")]
    names = re.findall(r"`(lzero(?:\.\w+)+)`", " ".join(ours))
    assert len(names) >= 9
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    for name in adapters.__all__:
        assert hasattr(adapters, name)
        if name not in ("Row", "Translation"):
            assert f"`{name}" in prose or f"{name}(" in prose or f".{name}" in prose, name


MADE_OF_SEVERAL = {
    *("num_segments", "observation_shape", "num_res_blocks", "num_channels"),
    *("reward_support_range", "value_support_range", "update_per_collect"),
}
"""They decide something together with others: a hint names the field that is looked for, a translation the one it sets."""


def test_hints_and_translation_say_the_same_of_a_key():
    """The command line knows keys without the rest of this package, which needs torch."""
    translated: dict[str, set[str]] = {}
    for path, key in keys().items():
        if key.rule == "mapped":
            translated.setdefault(path.rsplit(".", 1)[-1], set()).add(key.target)
    both = translated.keys() & LIGHTZERO_KEYS.keys()
    assert len(both) > 30
    for name in both - MADE_OF_SEVERAL:
        assert LIGHTZERO_KEYS[name].path in translated[name], name
