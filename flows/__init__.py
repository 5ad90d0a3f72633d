"""Prefect flows: they wire, they do not compute."""

from __future__ import annotations

import os

# Before Prefect is imported, since it reads them then. Its own start-up limit of 20 seconds is too near
# what a first start takes, and nobody asked to be measured. What vqpipe logs is shown on the run's page. A server
# that is gone is asked again for half a minute a time: the output is whole by then, and knows it.
for _name, _value in {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "vqpipe,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLIENT_MAX_RETRIES": "4",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
}.items():
    os.environ.setdefault(_name, _value)
