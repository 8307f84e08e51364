"""Nothing but the plug-in knows DI-engine, and where that is not installed the plug-in says how it is."""

import re
import subprocess
import sys

from tests.test_imports import MODULES, ROOT, imported_names, room, sources

ASK = """
import sys
sys.modules["ding"] = None  # as where DI-engine is not installed
import lzero.entry
assert not any(name.startswith("lzero.ding") for name in sys.modules)
try:
    import lzero.ding
except ImportError as error:
    print(error)
"""


def test_the_plugin_is_the_only_one_that_knows_di_engine():
    users = set()
    for module in MODULES:
        names = set(imported_names(sources()[module], at_run_time=False))
        if any(re.match(r"(lzero\.)?ding(\.|$)", name) for name in names):
            users.add(room(module))
    assert users == {"ding"}


def test_without_di_engine_the_plugin_says_how_to_install_it():
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert "make ding" in line and "pip install --no-deps DI-engine==0.5.3" in line
    assert "hbutils" in line and "gym==0.25.1" in line
