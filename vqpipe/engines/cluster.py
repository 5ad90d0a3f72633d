"""The Dask cluster that a config names: made, or connected to."""

from __future__ import annotations

import importlib
import logging
import os
from contextlib import nullcontext
from typing import Any

import dask.config
from distributed import LocalCluster, Security
from distributed.deploy.cluster import Cluster

from vqpipe.config import ClusterConfig, ScaleConfig
from vqpipe.engines.keyboard import deaf_to_keyboard
from vqpipe.errors import ConfigError
from vqpipe.retries import start_again

# What brings a package that a cluster's class is in.
EXTRAS = {"dask_kubernetes": "kubernetes", "dask_jobqueue": "slurm"}


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
        extra = EXTRAS.get(module.split(".")[0])
        package = f"pip install 'vqpipe[{extra}]'" if extra else "install the package that holds it"
        raise ConfigError(
            f"cluster.class: {path!r} cannot be imported ({error}); {package}, or take distributed.LocalCluster"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ConfigError(
            f"cluster.class: {path!r} is no subclass of distributed.deploy.Cluster, so no workers can be had "
            "from it"
        )
    return found


TLS_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")


def security_of(config: ClusterConfig) -> Security | None:
    """Return how connections to the scheduler are secured: by ``security`` of a config's cluster options.

    Without it, Dask's own settings (``distributed.comm.tls``) hold.

    Raises
    ------
    ConfigError
        If what it names is not there, or Dask refuses it.
    """
    given: Any = config.options.get("security")
    if not isinstance(given, dict):
        return None
    for name in TLS_FILES:
        path = given.get(name)
        if path is None or not os.path.isfile(path):
            raise ConfigError(
                f"cluster.options.security.{name}: {path!r} is no file; TLS takes {', '.join(TLS_FILES)}, as the "
                "scheduler was started with"
            )
    try:
        found = Security(**{"require_encryption": True, **given})
        found.get_connection_args("client")
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"cluster.options.security: Dask refuses it: {error}") from error
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
    security = security_of(config)
    if security is not None:
        options["security"] = security
    if config.class_ == "distributed.LocalCluster":
        cores = len(os.sched_getaffinity(0))
        workers = config.scale if isinstance(config.scale, int) else cores
        # One thread a worker: FAISS and BLAS release the lock, but NumPy's own loops do not.
        local: dict[str, Any] = {
            "n_workers": workers,
            "threads_per_worker": 1,
            "dashboard_address": ":0",
        }
        # What a worker fails of is told by its stage; its tracebacks on the way out help nobody.
        quiet = {"silence_logs": logging.CRITICAL}
        # A task that was with two workers when they died is run alone: that tells more than two more deaths.
        quick = {"scheduler_kwargs": {"allowed_failures": 1}}
        # Each thread of a worker runs a task that may take as much as is allowed.
        limit = memory_bytes * int(options.get("threads_per_worker", 1))
        options = {**local, **quiet, **quick, "memory_limit": limit, **options}
    keep_away = deaf_to_keyboard() if issubclass(kind, LocalCluster) else nullcontext()
    try:
        # Workers that are started here have it from their first moment on: see `stop_profiling`.
        with keep_away, dask.config.set({"distributed.worker.profile.enabled": False}):
            cluster = start_again(kind, **options)
    except TypeError as error:
        raise ConfigError(f"cluster.options: {config.class_} refuses them: {error}") from error
    if isinstance(config.scale, ScaleConfig):
        cluster.adapt(minimum=config.scale.minimum, maximum=config.scale.maximum)
    elif config.scale is not None:
        cluster.scale(config.scale)
    return cluster
