"""What pyproject.toml has no word for: packages that are found, and beside them configs/ as data of `posterior`."""

from pathlib import Path

from setuptools import find_packages, setup

folders = sorted(path.name for path in Path(__file__).with_name("configs").iterdir() if path.is_dir())

setup(
    packages=[
        *find_packages(include=["posterior*", "datamodules*", "benchmarks*"]),
        *("posterior.configs", *(f"posterior.configs.{folder}" for folder in folders)),
    ],
    package_dir={"posterior.configs": "configs"},
    package_data={
        "posterior.results": ["report_files/*"],
        "posterior.configs": ["*/*"],
        "datamodules": ["*.npz"],
    },
)
