"""vqpipe: vector quantization for millions to billions of vectors.

>>> import vqpipe
>>> sorted(vqpipe.__all__)
['load_codebook', 'open_codes', 'run']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqpipe.api import load_codebook, open_codes, run

__all__ = ["load_codebook", "open_codes", "run"]


def __getattr__(name: str) -> Any:
    # Loaded when first used (PEP 562): `vqpipe --help` imports this package and must answer at once.
    if name in __all__:
        return getattr(import_module("vqpipe.api"), name)
    raise AttributeError(f"module 'vqpipe' has no attribute {name!r}")
