"""lzero as a plug-in of DI-engine 0.5.3: its registries, policy modes, environment managers and learner, with our update,
search, replay and environments behind them.

Nothing else of lzero imports this package. How to install DI-engine beside torch 2.13, and what is whose: ``docs/ding.md``.
"""

INSTALL = (
    "lzero.ding needs DI-engine 0.5.3, which cannot be installed beside torch 2.13 and numpy 2 in the usual way: type "
    "make ding, or pip install --no-deps DI-engine==0.5.3 and then pip install hbutils graphviz dill pyyaml requests flask "
    "URLObject enum-tools tabulate hickle mpire redis pynng einops gym==0.25.1 gym-notices DI-treetensor DI-toolkit "
    "treevalue cloudpickle tensorboardX yapf==0.29.0"
)

try:
    import ding.worker  # noqa: F401 (it imports all of DI-engine that is used here)
except ImportError as error:
    raise ImportError(f"{INSTALL} ({error})") from error

from lzero.ding.collector import ManagedCollector
from lzero.ding.config import ding_config, experiment_of
from lzero.ding.env import LZeroEnv, env_cfgs
from lzero.ding.pipeline import serial_pipeline_unizero_multitask
from lzero.ding.policy import UniZeroMultitaskPolicy, create_unizero_model

__all__ = [
    "LZeroEnv",
    "ManagedCollector",
    "UniZeroMultitaskPolicy",
    "create_unizero_model",
    "ding_config",
    "env_cfgs",
    "experiment_of",
    "serial_pipeline_unizero_multitask",
]
