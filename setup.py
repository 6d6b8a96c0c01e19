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

# The library itself comes with ONNX Runtime's plugin for it; the bindings have to be of its version.
RTX_PLATFORM = "sys_platform == 'linux' and platform_machine == 'x86_64'"
RTX = [
    f"tensorrt-rtx-cu13-bindings>=1.7.1,<1.8; {RTX_PLATFORM}",
    f"onnxruntime-ep-nv-tensorrt-rtx-cu13>=0.5,<0.6; {RTX_PLATFORM}",
]
# Drives the GPU's memory and streams; carries the CUDA runtime inside.
CUDA = ["cuda-bindings>=12.6; sys_platform != 'darwin'"]
# Runs, compares and bisects graphs and engines (docs/debugging.md); pure Python.
DEBUG = ["polygraphy>=0.53", "onnx-graphsurgeon>=0.5"]

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
        "tensorrt": ["tensorrt>=10.3", *CUDA],
        "rtx": [*RTX, *CUDA],
        "export": EXPORT,
        "int8": EXPORT,
        "debug": [*EXPORT, *DEBUG],
        "train": [*TORCH, "tensorboard>=2.14", "pyyaml>=6"],
        "test": [*EXPORT, *DEBUG, *RTX, *CUDA, "tensorboard>=2.14", "pyyaml>=6", "pytest>=8", "ruff>=0.6"],
    },
)
