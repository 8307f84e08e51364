"""The compiled search step; everything else about the package is in pyproject.toml.

One source, built for several kinds of processor; ``lzero.native`` loads the one that fits. All are
optional: where a compiler is missing, or does not know a processor's flags, the package is installed
without, and searches with torch.
"""

from setuptools import Extension, setup

COMMON = ["-O3", "-std=c++17", "-pthread", "-fno-math-errno", "-fno-trapping-math"]
BUILDS = {
    "_search_step": [],
    "_search_step_avx2": ["-march=x86-64-v3"],
    "_search_step_avx512": ["-march=x86-64-v4"],
}

setup(
    ext_modules=[
        Extension(
            f"lzero.native.{name}",
            ["lzero/native/search_step.cpp"],
            extra_compile_args=COMMON + flags,
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in BUILDS.items()
    ]
)
