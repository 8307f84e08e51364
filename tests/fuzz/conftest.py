"""How many examples hypothesis tries: few and always the same ones in the suite, many new ones by ``make fuzz``."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("suite", max_examples=25, derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=int(os.environ.get("LZERO_EXAMPLES", "5000")))
settings.load_profile("fuzz" if "LZERO_EXAMPLES" in os.environ else "suite")
settings.register_profile(
    "here",
    settings(),
    deadline=None,  # the first example compiles
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("here")
