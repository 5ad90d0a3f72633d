"""Sources: vectors in files and Zarr arrays, read in place by row range."""

from vqpipe.sources.array import VectorArray
from vqpipe.sources.benchmark import Benchmark, find_benchmark
from vqpipe.sources.part import Part
from vqpipe.sources.source import open_source, open_table

__all__ = ["Benchmark", "Part", "VectorArray", "find_benchmark", "open_source", "open_table"]
