"""What FAISS was built for, and what of it this CPU lets it use."""

from __future__ import annotations

import faiss


def describe_faiss() -> dict[str, str]:
    """Return FAISS's version, its compile options and the SIMD level that it chose here."""
    level = getattr(faiss, "SIMDConfig", None)
    # Builds before 1.13 chose a level by the library that was loaded.
    chosen = level.get_level_name() if level is not None else "as compiled"
    return {
        "version": faiss.__version__,
        "options": faiss.get_compile_options().strip(),
        "simd": chosen,
    }
