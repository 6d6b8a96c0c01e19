"""The ways to run a model, in the order of what is to be known of them first."""

from __future__ import annotations

from dataclasses import dataclass

# What runs a model, as `Facts.why_not` names it.
PYTORCH, COMPILED, ONNXRUNTIME, TENSORRT, RTX = (
    "PyTorch",
    "compiled PyTorch",
    "ONNX Runtime",
    "TensorRT",
    "TensorRT-RTX",
)
LIBRARY_OF = {TENSORRT: "tensorrt", RTX: "tensorrt-rtx"}
_PRECISIONS = {"fp32": "FP32", "tf32": "TF32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}


@dataclass(frozen=True)
class Way:
    """One library in one precision. precision: "tf32" is FP32 whose products may be rounded. everywhere: whether a
    processor does it in a reasonable time."""

    library: str
    precision: str
    everywhere: bool = False

    @property
    def name(self) -> str:
        return f"{self.library} {_PRECISIONS[self.precision]}"

    @property
    def slug(self) -> str:
        return self.name.lower().replace(" ", "-")

    @property
    def engine(self) -> bool:
        return self.library in LIBRARY_OF

    @property
    def graph(self) -> str | None:
        """The precision of the ONNX file that it runs or is built from; None where it runs the checkpoint."""
        if self.library in (PYTORCH, COMPILED):
            return None
        return "fp32" if self.precision == "tf32" else self.precision


# FP32 comes first, since the others are measured against it, but of compiled PyTorch, which takes 40 s for each number
# of streams on an H200: there what is used comes first. INT8 graphs of ONNX Runtime are for processors.
WAYS = (
    Way(PYTORCH, "fp32", everywhere=True),
    Way(ONNXRUNTIME, "fp32", everywhere=True),
    Way(COMPILED, "fp16"),
    Way(COMPILED, "fp32"),
    Way(COMPILED, "bf16"),
    *(Way(library, precision) for library in (TENSORRT, RTX) for precision in ("fp32", "fp16", "int8")),
    Way(ONNXRUNTIME, "fp16"),
    Way(ONNXRUNTIME, "tf32"),
    Way(PYTORCH, "bf16", everywhere=True),
    Way(PYTORCH, "fp16"),
)
BY_SLUG = {way.slug: way for way in WAYS}
