"""Print the words nearest to a few words, found through the codes of the quickstart alone."""

from __future__ import annotations

import sys
from pathlib import Path

import faiss
import numpy as np

import vqpipe

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "runs" / "quickstart"


def main() -> None:
    """Search the exported index for each word given, or for three of our own."""
    words = (HERE / "data" / "words-20k.txt").read_text(encoding="utf-8").split("\n")
    vectors = np.load(HERE / "data" / "words-20k-f16.npy").astype(np.float32)
    codes = vqpipe.open_codes(OUTPUT)["codes"]
    generation = (OUTPUT / "current").read_text().strip()
    index = faiss.read_index(str(OUTPUT / generation / "index.faiss"))
    print(f"{codes.shape[0]:,} words in {codes.shape[1]} bytes each; nearest by code:")
    for word in sys.argv[1:] or ["king", "violin", "monday"]:
        row = words.index(word)
        _, found = index.search(vectors[row : row + 1], 6)
        near = [words[other] for other in found[0] if other != row]
        print(f"  {word:<8} {', '.join(near[:5])}")


if __name__ == "__main__":
    main()
