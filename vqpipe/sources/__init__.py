"""Sources: vectors in files and Zarr arrays, read in place by row range."""

from vqpipe.sources.array import VectorArray
from vqpipe.sources.part import Part
from vqpipe.sources.source import open_source, open_table

__all__ = ["Part", "VectorArray", "open_source", "open_table"]
