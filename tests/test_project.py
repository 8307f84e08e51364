"""What the project says of itself holds: dependencies, bounds, version, hooks, reading order."""

import ast
import io
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console
from rich.progress import Progress

import lzero
from lzero.logging import TrainingProgress

ROOT = Path(lzero.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = {"lzero", "zoo"}
LONGEST_READING = 1_500  # lines
PLUGIN = {"ding": "di-engine"}
"""Packages that no extra can ask for, because what they ask for contradicts the rest; by the name they are imported under.
They are pinned in requirements-ding.txt."""
NOT_AT_ITS_LOWER_BOUND = {"torch"}  # one version of it is tested; the file of pins says so


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """By canonical name; comments and empty lines are left out."""
    found = {}
    for line in lines:
        text = line.split("#")[0].strip()
        if text:
            requirement = Requirement(text)
            found[canonicalize_name(requirement.name)] = requirement
    return found


def pins(file: str) -> dict[str, Requirement]:
    return requirements((ROOT / file).read_text(encoding="utf-8").splitlines())


RUNTIME = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}
DECLARED = RUNTIME | {name: need for extra in EXTRAS.values() for name, need in extra.items()}


def section(title: str) -> str:
    """Text of a section of the README, up to the next one."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, f"README has no section {title!r}"
    return found[1]


def reasons() -> dict[str, str]:
    """Reason for each package in the README's table of dependencies, by canonical name."""
    found = {}
    _, rows = section("Dependencies, with the reason").split("|---|---|\n")
    for cells, reason in re.findall(r"^\| (.+?) \| (.+?) \|$", rows, re.MULTILINE):
        for name in re.findall(r"[A-Za-z][\w-]*", re.sub(r"\(.*\)|\[.*?\]", "", cells)):
            found[canonicalize_name(name)] = reason
    return found


IMPORTED_AS = {"yaml": "pyyaml"}
"""Packages by what is imported of them, where that is called otherwise."""


def third_party_imports() -> set[str]:
    """Packages of others that lzero and zoo import anywhere, by canonical name."""
    found = set()
    for package in sorted(OURS):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found.update(alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                    found.add(node.module.split(".")[0])
    names = {IMPORTED_AS.get(name, name) for name in found - OURS - sys.stdlib_module_names}
    return {canonicalize_name(name) for name in names}


def lower_bound(requirement: Requirement) -> Version:
    [bound] = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
    return Version(bound)


def test_every_imported_package_is_declared_with_a_reason():
    imported = third_party_imports()
    assert {"torch", "ale-py", "torchjd"} <= imported, "the walk sees imports of every kind"
    assert sorted(imported - set(DECLARED)) == sorted(PLUGIN)


def test_every_declared_package_has_a_reason_in_the_readme():
    assert sorted(set(DECLARED) - set(reasons())) == []
    assert sorted(set(reasons()) - set(DECLARED)) == sorted(PLUGIN.values())


def test_the_plugin_has_pins_of_its_own_for_what_is_not_pinned_already():
    plugin = pins("requirements-ding.txt")
    assert set(PLUGIN.values()) <= set(plugin)
    assert {len(pin.specifier) for pin in plugin.values()} == {1}
    assert all(str(pin.specifier).startswith("==") for pin in plugin.values())
    assert sorted(set(plugin) & set(pins("requirements.txt"))) == []
    rule = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--no-deps -r requirements-ding.txt" in rule


def test_the_tested_pins_are_those_that_are_declared():
    tested = pins("requirements.txt")
    assert set(tested) == set(DECLARED)
    for name, pin in tested.items():
        assert lower_bound(pin) in DECLARED[name].specifier, name
        assert pin.extras == DECLARED[name].extras, name


def test_the_lowest_pins_are_the_lower_bounds():
    """Tools whose version the extra fixes are left out: nothing older is allowed."""
    ranges = {}
    for name, need in DECLARED.items():
        if str(need.specifier)[:2] != "==":
            ranges[name] = need
    lowest = pins("requirements-lowest.txt")
    assert set(lowest) == set(ranges)
    for name, pin in lowest.items():
        assert pin.extras == ranges[name].extras, name
        if name in NOT_AT_ITS_LOWER_BOUND:
            assert lower_bound(pin) in ranges[name].specifier
        else:
            assert lower_bound(pin) == lower_bound(ranges[name]), name


def test_lint_formats_and_checks_types_with_one_version_everywhere():
    tested = pins("requirements.txt")
    for tool in ("ruff", "mypy"):
        assert lower_bound(tested[tool]) == lower_bound(EXTRAS["test"][tool])


def test_a_bar_shows_within_the_trainings_display():
    """An evaluation has a bar of its own while the run's is there; rich before 14.1 allows one."""
    console = Console(file=io.StringIO(), force_terminal=True)
    with TrainingProgress(100, is_main=True, console=console):
        with Progress(console=console) as inner:
            inner.add_task("evaluating", total=3)
    assert "evaluating" in console.file.getvalue()


def test_the_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = Version(lzero.__version__)
    [(number, date), *_] = re.findall(r"^## \[(\S+)\] - (\S+)$", changelog, re.MULTILINE)
    assert number == version.base_version
    assert (date == "unreleased") == version.is_devrelease


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert lzero.__version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_hooks_run_what_lint_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint: setup\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    commands = re.findall(r"\$\(BIN\)/(\w+(?: (?:check|format))?)", recipe[1])
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"entry: \.venv/bin/(\w+(?: (?:check|format))?)", hooks) == commands


def test_the_workflow_runs_ci_on_every_supported_python():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    [versions] = re.findall(r"python: \[(.*)\]", workflow)
    supported = []
    for text in PROJECT["classifiers"]:
        supported += re.findall(r"^Programming Language :: Python :: (3\.\d+)$", text)
    assert re.findall(r"[\d.]+", versions) == supported
    for number in supported:
        assert f"{number}.0" in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert ".ci/run" in workflow and "make test-lowest" in workflow


def test_everything_installed_is_there():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    for package, files in setuptools["package-data"].items():
        for file in files:
            assert (ROOT.joinpath(*package.split(".")) / file).is_file(), f"{package}/{file}"
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} would not be installed"


def reading_order() -> list[tuple[Path, int]]:
    """Files that the README tells a newcomer to read for one update, and how long it says they are."""
    rows = re.findall(
        r"^\| \d+ \| `(\S+\.py)` \| .+ \| (\d+) \|$", section("Reading order"), re.MULTILINE
    )
    return [(ROOT / name, int(lines)) for name, lines in rows]


def test_one_update_can_be_read_in_an_afternoon():
    order = reading_order()
    assert order[0][0].name == "unizero_multitask.py", "the update itself comes first"
    assert len(order) >= 5
    total = 0
    for path, promised in order:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines == pytest.approx(promised, rel=0.1), f"{path.name} has {lines} lines now"
        total += lines
    assert total <= LONGEST_READING
