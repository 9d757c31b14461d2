"""InfraSage Runbooks: the right runbook runs by itself, asks where it should, and proves what it did."""

__version__ = "0.1.0"
