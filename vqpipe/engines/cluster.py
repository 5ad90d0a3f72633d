"""The Dask cluster that a config names: made, or connected to."""

from __future__ import annotations

import importlib
import logging
import os

from distributed.deploy.cluster import Cluster

from vqpipe.config import ClusterConfig, ScaleConfig
from vqpipe.errors import ConfigError


def cluster_class(path: str) -> type[Cluster]:
    """Return the cluster class at an import path.

    Raises
    ------
    ConfigError
        If there is none, or it is no Dask cluster.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cluster.class: {path!r} cannot be imported ({error}); install the package that holds it, or take "
            "distributed.LocalCluster"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ConfigError(
            f"cluster.class: {path!r} is no subclass of distributed.deploy.Cluster, so no workers can be had "
            "from it"
        )
    return found


def start_cluster(config: ClusterConfig, memory_bytes: int) -> Cluster:
    """Start the cluster that a config describes.

    Raises
    ------
    ConfigError
        If its class refuses its options.
    """
    kind = cluster_class(config.class_)
    options = dict(config.options)
    if config.class_ == "distributed.LocalCluster":
        cores = len(os.sched_getaffinity(0))
        workers = config.scale if isinstance(config.scale, int) else cores
        # One thread a worker: FAISS and BLAS release the lock, but NumPy's own loops do not.
        local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}
        # What a worker fails of is told by its stage; its tracebacks on the way out help nobody.
        quiet = {"silence_logs": logging.CRITICAL}
        options = {**local, **quiet, "memory_limit": memory_bytes, **options}
    try:
        cluster = kind(**options)
    except TypeError as error:
        raise ConfigError(f"cluster.options: {config.class_} refuses them: {error}") from error
    if isinstance(config.scale, ScaleConfig):
        cluster.adapt(minimum=config.scale.minimum, maximum=config.scale.maximum)
    elif config.scale is not None:
        cluster.scale(config.scale)
    return cluster
