"""Mini-batch k-means for all columns of a codebook at once. NumPy only."""
