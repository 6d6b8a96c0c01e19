"""Packaging of l2g: four rooms of the checkout, one import package."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The checkout shows these folders at the top; an installed l2g offers `runtime/` as `l2g.runtime`, and no other name.
ROOMS = {"l2g.calibration": "calibration", "l2g.export": "export", "l2g.runtime": "runtime"}

TORCH = ["torch>=2.5", "safetensors>=0.4"]
# The exporter that the graphs are traced with leaves PyTorch some day; the graph tools change their interfaces.
EXPORT = [
    "torch>=2.5,<2.14",
    "safetensors>=0.4",
    "onnx>=1.17,<2",
    "onnx-ir>=1.0,<2",
    "onnxruntime>=1.20,<2",
    "onnxslim>=0.1.90,<0.2",
]

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
    package_data={"l2g": ["weights/*"], "l2g.training": ["configs/*.yaml"]},
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "av>=13.1",
        "pycocotools>=2.0.7",
        "scipy>=1.11",
        "tqdm>=4.60",
    ],
    extras_require={
        "eager": TORCH,
        "cpu": ["onnxruntime>=1.20,<2"],
        "gpu": ["onnxruntime-gpu>=1.20,<2"],
        # From the vendor's own index; a Jetson has it from JetPack.
        "tensorrt": ["tensorrt>=10.3"],
        "rtx": ["tensorrt-rtx-cu13-bindings>=1.7", "onnxruntime-ep-nv-tensorrt-rtx-cu13>=0.5"],
        "export": EXPORT,
        "int8": EXPORT,
        "train": [*TORCH, "tensorboard>=2.14", "pyyaml>=6"],
        "test": [*EXPORT, "tensorboard>=2.14", "pyyaml>=6", "pytest>=8", "ruff>=0.6"],
    },
)
