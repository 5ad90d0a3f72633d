"""Machine code for the innermost loops, made for the CPU that it runs on. The only room that knows LLVM."""

from vqpipe.kernels.errors import squared_errors
from vqpipe.kernels.machine import can_compile, describe_cpu
from vqpipe.kernels.nearest import NearestCodewords

__all__ = ["NearestCodewords", "can_compile", "describe_cpu", "squared_errors"]
