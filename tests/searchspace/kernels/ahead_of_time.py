"""Kernels compiled for a device that need not be present: registers, shared memory and spills against its limits."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from searchspace.kernels.ahead_of_time import Case

# What one block may take: 1 KB of 164 and 228 is the system's.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
REGISTERS = 255


@dataclass(frozen=True)
class Resources:
    """Per thread: registers and bytes of its stack, which are spills. Per block: bytes of shared memory."""

    registers: int
    spill_bytes: int
    shared_bytes: int


def compile_case(case: Case, capability: int) -> Resources:
    """Compile for compute capability 80 or 90; raises ValueError where the device's limits do not hold it.

    Not in a process with TRITON_INTERPRET=1. Pointers are taken to be aligned to 16 bytes, as torch's are.
    """
    names = case.kernel.arg_names
    missing = [n for n in names if n not in case.signature and n not in case.constants]
    if missing:
        raise ValueError(f"{case.name}: the case gives no type or value for {', '.join(missing)}")
    pointers = [i for i, n in enumerate(names) if case.signature.get(n, "").startswith("*")]
    source = ASTSource(
        case.kernel,
        signature={n: case.signature.get(n, "constexpr") for n in names},
        constexprs={(names.index(n),): value for n, value in case.constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spill_bytes = usage(compiled.asm["cubin"])
    found = Resources(registers, spill_bytes, compiled.metadata.shared)
    limits = Resources(REGISTERS, case.max_spill_bytes, SHARED_BYTES[capability])
    for quantity in ("registers", "spill_bytes", "shared_bytes"):
        value, limit = getattr(found, quantity), getattr(limits, quantity)
        if value > limit:
            raise ValueError(f"{case.name} for sm_{capability}: {quantity} {value} is above {limit}")
    return found


def usage(cubin: bytes) -> tuple[int, int]:
    """(registers, stack bytes) of a thread, as the disassembler that Triton brings reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (re.findall(rf"{word}:(\d+)", text)[-1] for word in ("REG", "STACK"))
    return int(registers), int(stack)
