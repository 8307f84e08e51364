"""Package metadata; tool settings are in pyproject.toml, tested pins in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="lzero",
    version="0.1.0",
    description="Multi-task UniZero world models with mixture-of-experts blocks and gradient-conflict analysis",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=("lzero", "lzero.*", "zoo", "zoo.*")),
    package_data={"lzero.report": ["page.css"], "zoo.atari": ["scores.json"], "zoo.minatar": ["scores.json"]},
    # The reason for each is in the README.
    install_requires=[
        "torch>=2.11,<2.14",
        "numpy>=2",
        "gymnasium>=1.1",
        "ale-py>=0.11",
        "numba>=0.61",
        "pydantic>=2.10",
        "tyro>=0.9",
        "easydict>=1.13",
        "tensorboard>=2.18",
        "rich>=14",
        "safetensors>=0.5",
        "scipy>=1.14",
        "matplotlib>=3.10",
        "imageio[ffmpeg]>=2.36",
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "ruff>=0.9"],
        "minatar": ["minatar>=1.0.15"],  # GPL-3: optional, imported at run time
        "torchjd": ["torchjd[quadprog-projector,cagrad]>=0.18"],
        "profile": ["line_profiler>=5"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
