"""The CPU of this process: how its registers are best filled, and code compiled for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir

# The widest vectors of fused multiply-adds that a CPU may name, best first: lanes of float32, then vectors of
# rows and codewords that are worked on together. Their product is the sums kept in registers: eight would hide
# the latency of two units of four cycles each; twelve of sixteen registers were a tenth to a sixth faster from 16
# dims on, since each value of a row is loaded for more codewords.
_TILES = (("avx512f", 16, 2, 8), ("fma", 8, 2, 6), ("neon", 4, 4, 4))


@dataclass(frozen=True, slots=True)
class Tile:
    """What is kept in registers at a time.

    Attributes
    ----------
    lanes : int
        float32 values of a vector register.
    vectors : int
        Vectors of rows.
    codewords : int
    """

    lanes: int
    vectors: int
    codewords: int

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.lanes * self.vectors


@cache
def find_tile() -> Tile | None:
    """Return the tile for this CPU; None where it has no fused multiply-add."""
    features = llvm.get_host_cpu_features()
    for name, lanes, vectors, codewords in _TILES:
        if features.get(name):
            return Tile(lanes, vectors, codewords)
    return None


def can_compile() -> bool:
    """Say whether this CPU has what the kernels are made of."""
    return find_tile() is not None


def describe_cpu() -> str:
    """Return the CPU's kind as LLVM names it, and the widest vectors that are used of it."""
    tile = find_tile()
    vectors = "no fused multiply-add" if tile is None else f"{32 * tile.lanes}-bit vectors"
    return f"{llvm.get_host_cpu_name()}, {vectors}"


# Code lives as long as the engine that made it.
_ENGINES: list[llvm.ExecutionEngine] = []


def compile_function(
    module: ir.Module, name: str, arguments: tuple[type, ...]
) -> ctypes._CFunctionType:
    """Compile a function that returns nothing; calling it releases the interpreter's lock.

    Parameters
    ----------
    module : llvmlite.ir.Module
    name : str
        Of the function in the module.
    arguments : tuple of ctypes types
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3
    )
    # Loops are unrolled, and their vectors chosen, where the code is written.
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    passes = llvm.create_pass_builder(target, tuning)
    passes.getModulePassManager().run(parsed, passes)
    engine = llvm.create_mcjit_compiler(parsed, target)
    engine.finalize_object()
    _ENGINES.append(engine)
    return ctypes.CFUNCTYPE(None, *arguments)(engine.get_function_address(name))
