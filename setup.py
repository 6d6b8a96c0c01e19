"""Packaging of l2g: four rooms of the checkout, one import package."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The checkout shows `runtime/` at the top; an installed l2g offers it as `l2g.runtime` and claims no other name.
ROOMS = {"l2g.runtime": "runtime"}

TORCH = ["torch>=2.5", "safetensors>=0.4"]

setup(
    name="l2g",
    version="0.1.0",
    description="Local2Global video instance segmentation, from a PyTorch checkpoint to a verified engine on a stream",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["l2g", "l2g.*"]) + sorted(ROOMS),
    package_dir=ROOMS,
    package_data={"l2g.training": ["configs/*.yaml"]},
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "av>=12",
        "pycocotools>=2.0.7",
        "scipy>=1.11",
        "tqdm>=4.60",
    ],
    extras_require={
        "eager": TORCH,
        "train": [*TORCH, "tensorboard>=2.14", "pyyaml>=6"],
        "test": [*TORCH, "tensorboard>=2.14", "pyyaml>=6", "pytest>=8", "ruff>=0.6"],
    },
)
