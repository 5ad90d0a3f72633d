"""vqpipe: vector quantization for millions to billions of vectors.

>>> import vqpipe
>>> sorted(vqpipe.__all__)
['decode', 'load_codebook', 'open_codes', 'run', 'search']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqpipe.api import decode, load_codebook, open_codes, run, search

__all__ = ["decode", "load_codebook", "open_codes", "run", "search"]


def __getattr__(name: str) -> Any:
    # Loaded when first used (PEP 562): `vqpipe --help` imports this package and must answer at once.
    if name in __all__:
        return getattr(import_module("vqpipe.api"), name)
    raise AttributeError(f"module 'vqpipe' has no attribute {name!r}")
