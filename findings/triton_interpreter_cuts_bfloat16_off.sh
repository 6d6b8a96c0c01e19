#!/usr/bin/env bash
# Triton's interpreter cuts float32 off where it makes bfloat16 of it; a GPU rounds it to the nearest.
# One would expect: TRITON_INTERPRET=1 gives a kernel's own numbers on a CPU, and x.to(tl.bfloat16) rounds as PyTorch does
#   and as the same kernel does once it is compiled (cvt.rn.bf16.f32).
# What happens: the interpreter drops the lower half of the bits. Results are up to a whole step of bfloat16 too small in
#   magnitude, never too large; float16 is rounded.
# It matters: the interpreter is how kernels are tested without a GPU. Tolerances have to be twice as wide for BF16 there,
#   and what a model loses to BF16 is overstated.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0 triton==3.7.1
cat > kernels.py <<'PY'
import triton
import triton.language as tl


@triton.jit
def cast(source, target, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(target + at, tl.load(source + at).to(target.dtype.element_ty))
PY
TRITON_INTERPRET=1 venv/bin/python - <<'PY'
import torch
import triton
from kernels import cast

print("triton", triton.__version__, "torch", torch.__version__)
source = torch.linspace(-2, 2, 1024)
for dtype in (torch.float16, torch.bfloat16):
    found = torch.empty_like(source, dtype=dtype)
    cast[(1,)](source, found, SIZE=1024)
    other = int((found != source.to(dtype)).sum())
    cut = (source.view(torch.int32) & -65536).view(torch.float32).to(dtype)  # the upper sixteen bits as they are
    print(f"{dtype}: {other} of 1024 are not what PyTorch rounds to")
    assert (other > 300) == (dtype is torch.bfloat16), "it rounds now"
    assert dtype is torch.float16 or torch.equal(found, cut)
PY
venv/bin/python - <<'PY'
from kernels import cast
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

signature = {"source": "*fp32", "target": "*bf16", "SIZE": "constexpr"}
made = compile(ASTSource(cast, signature, {"SIZE": 1024}), target=GPUTarget("cuda", 90, 32)).asm["ptx"]
(kind,) = {line.split()[0] for line in made.splitlines() if line.strip().startswith("cvt.")}
print("the compiled kernel:", kind)
assert kind.startswith("cvt.rn.bf16"), kind
PY
