"""Engines that run tasks: one in this process, one on a Dask cluster."""
