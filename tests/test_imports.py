"""Imports point down the table of rooms, and importing the policy stays cheap."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lzero

ROOT = Path(lzero.__file__).parents[1]
SERVICES = frozenset(
    {
        *("checkpoint", "config_fields", "device", "distributed", "environment", "event_files"),
        *("earlier_tags", "logging", "profiling", "run_paths", "sinks", "tags"),
    }
)
EVERYBODY_MAY_IMPORT = frozenset({"checks", "tags"})
MAY_IMPORT = {
    "lightzero_keys": frozenset(),
    "config_hints": frozenset({"lightzero_keys"}),
    "config_sections": frozenset({"config_hints"}),
    "config": frozenset({"config_sections"}),
    "config_mixture": frozenset({"config_sections"}),
    "config_ppo": frozenset({"config_sections", "config_mixture"}),
    "nn": frozenset({"config", "config_mixture"}),
    "jit": frozenset(),
    "replay": frozenset({"jit"}),
    "mcts": frozenset({"config", "jit"}),
    "native": frozenset(),
    "model": frozenset({"config", "config_mixture", "nn", "native"}),
    "analysis": frozenset({"device", "distributed", "logging", "nn"}),
    "envs": frozenset({"config"}),
    "console": frozenset(
        {"config", "config_hints", "config_ppo", "config_sections", "envs", "run_paths"}
    ),
    "policy": frozenset(
        {
            "checkpoint",
            "config",
            "config_ppo",
            "device",
            "distributed",
            "nn",
            "analysis",
            "replay",
            "mcts",
            "model",
            "native",
        }
    ),
    "worker": frozenset(
        {
            "config",
            "device",
            "logging",
            "nn",
            "analysis",
            "replay",
            "mcts",
            "model",
            "envs",
            "policy",
        }
    ),
    "entry": frozenset(
        {
            *("config", "config_ppo", "nn", "analysis", "replay", "mcts", "model", "envs"),
            *("policy", "worker", "console"),
        }
    )
    | SERVICES,
    "report": frozenset({"config", "analysis", "envs"}) | SERVICES,
    # faces towards other frameworks: no room may import them
    "lightzero": frozenset({"config", "nn", "analysis", "envs", "entry"}) | SERVICES,
    "ding": frozenset(
        {
            *("config", "analysis", "replay", "model", "envs", "policy", "worker", "entry"),
        }
    )
    | SERVICES,
    "command": frozenset(
        {
            *("config", "config_hints", "config_ppo", "config_sections"),
            *("console", "entry", "report"),
        }
    )
    | SERVICES,
    "__main__": frozenset({"command"}),
    **dict.fromkeys(SERVICES, SERVICES | {"config", "config_sections"}),
    **dict.fromkeys(EVERYBODY_MAY_IMPORT, frozenset()),
}
"""What each room of lzero may import of the others; itself, the names in tags and the checks of
arguments go without saying."""
HEAVY = ("ale_py", "gymnasium", "matplotlib", "numba", "seaborn", "tensorboard", "zoo")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_names(node: ast.AST, *, at_run_time: bool) -> Iterator[str]:
    """Dotted names that a piece of source imports, inside functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide what is imported"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (at_run_time and is_type_checking(child)):
            yield from imported_names(child, at_run_time=at_run_time)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def sources() -> dict[str, ast.Module]:
    paths = [
        path for package in ("lzero", "zoo") for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imports(module: str, *, at_run_time: bool = False) -> set[str]:
    """Modules of this project that a module imports by name."""
    found = set()
    for name in imported_names(sources()[module], at_run_time=at_run_time):
        while name and name not in sources():  # what is imported of a module is no module itself
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = [module for module in sources() if module.startswith("lzero.")]


def test_the_walk_sees_imports_of_every_kind():
    source = """
import lzero.a, os
from lzero import b
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from lzero.c import C
else:
    pass
def f():
    from lzero.d import D
class E:
    if True:
        import lzero.e as e
"""
    tree = ast.parse(source)
    everything = {
        "lzero.a",
        "os",
        "lzero.b",
        "typing.TYPE_CHECKING",
        "lzero.c.C",
        "lzero.d.D",
        "lzero.e",
    }
    assert set(imported_names(tree, at_run_time=False)) == everything
    assert set(imported_names(tree, at_run_time=True)) == everything - {"lzero.c.C"}
    assert "lzero.policy.unizero_multitask" in imports("lzero.entry.build")
    assert len(MODULES) > 30


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_the_table(module):
    assert room(module) in MAY_IMPORT, "a new room: say what it may import"
    others = {other for other in imports(module) if room(other) != room(module)}
    assert not {other for other in others if other.startswith("zoo")}, "the library knows no domain"
    assert {
        other
        for other in others
        if room(other) not in MAY_IMPORT[room(module)] | EVERYBODY_MAY_IMPORT
    } == set()


def test_the_table_itself_points_one_way():
    rooms = {name: below - SERVICES for name, below in MAY_IMPORT.items() if name not in SERVICES}
    assert list(TopologicalSorter(rooms).static_order())[0] == "lightzero_keys"


def test_there_are_no_circles():
    """Also not through imports inside functions; those for type checkers alone may point back."""
    graph = {module: imports(module, at_run_time=True) for module in sources()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


MEASURE = """
import json, sys, time
start = time.process_time()
import torch
middle = time.process_time()
import lzero.policy
seconds = time.process_time() - middle
print(json.dumps([middle - start, seconds, sorted(sys.modules)]))
"""


def test_importing_the_policy_is_cheap():
    """No environment, no plotting, no compiler; less than 0.5 s of processor time on top of torch.

    On a machine where torch alone takes long to import, a fair share of that is allowed.
    """
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, check=True, timeout=60
        )
        runs.append(json.loads(done.stdout))
    loaded = {name.split(".")[0] for _, _, modules in runs for name in modules}
    assert "lzero" in loaded
    assert sorted(loaded & set(HEAVY)) == []
    torch_seconds, policy_seconds = (
        sum(run[index] for run in runs) / len(runs) for index in (0, 1)
    )
    assert policy_seconds < max(0.5, 0.3 * torch_seconds)
