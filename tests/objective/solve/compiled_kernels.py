"""Compiles the kernels of the GPU's Sinkhorn pass for GPUs that need not be here, and reads what came out.

A program of its own, since Triton's interpreter and its compiler cannot both be used in one process:
`python -m tests.objective.solve.compiled_kernels OUT [all]` writes one object per variant as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TYPES = {
    "rows": "i32", "prototypes": "i32", "scale": "fp32", "lowest": "fp32", "side_stride": "i32",
    "row_stride": "i32", "WIDTH": "constexpr", "HEIGHT": "constexpr", "DIRECT": "constexpr",
    "WEIGHTED": "constexpr", "BY_FOUR": "constexpr",
}  # fmt: skip
"""Of the kernels' arguments; all others are pointers to float32."""


class Variant(NamedTuple):
    """One kernel as it is launched."""

    kernel: str
    arch: int
    constants: dict[str, Any]
    num_warps: int
    multiple: int
    """What K and the strides are multiples of: 16, 4 or 1."""


def variants(everything: bool) -> Iterator[Variant]:
    """As `column_sums` launches them: all, or those of the paper's K = 500 and the widest row."""
    for arch in (80, 90):
        for multiple in (16, 4, 1):
            for width in (512, 1024, 2048, 4096, 8192) if everything else (512, 8192):
                for direct in (True, False) if everything else (False,):
                    for weighted in (True, False) if everything else (False,):
                        asked = {"WIDTH": width, "DIRECT": direct, "WEIGHTED": weighted}
                        warps = min(16, max(1, width // 1024))
                        yield Variant("_one_read", arch, asked, warps, multiple)
            for direct in (True, False) if everything else (False,):
                yield Variant("_row_sums", arch, {"WIDTH": 4096, "DIRECT": direct}, 4, multiple)
                tile = {"WIDTH": 256, "HEIGHT": 16, "DIRECT": direct}
                yield Variant("_columns", arch, tile, 4, multiple)


def compiled(variant: Variant) -> dict[str, Any]:
    """Registers, stack and loads of a variant, from the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from swamp_dist.objective.solve import masses_triton

    function: Any = getattr(masses_triton, variant.kernel)
    constants = {**variant.constants, "BY_FOUR": variant.multiple == 4}
    signature = {name: TYPES.get(name, "*fp32") for name in function.arg_names}
    whole = ("prototypes", "side_stride", "row_stride") if variant.multiple == 16 else ()
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(function.arg_names)
        if signature[name].startswith("*") or name in whole
    }
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    built = triton.compile(
        source, target=GPUTarget("cuda", variant.arch, 32), options={"num_warps": variant.num_warps}
    )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = _said(tools / "cuobjdump", "-res-usage", file.name)
        code = _said(tools / "nvdisasm", "-c", file.name)
    loads = re.findall(r"\bLDG\.E(?:\.\w+)*", code)
    return {
        "variant": variant._asdict(),
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "local": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "loads": len(loads),
        "wide": sum(".128" in load for load in loads),
    }


def _said(*command: object) -> str:
    return subprocess.run([str(x) for x in command], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    found = [compiled(variant) for variant in variants(everything=sys.argv[2:] == ["all"])]
    Path(sys.argv[1]).write_text(json.dumps(found))
