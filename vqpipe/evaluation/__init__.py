"""The arithmetic of evaluation: distortion, use of codewords, recall. NumPy only."""
