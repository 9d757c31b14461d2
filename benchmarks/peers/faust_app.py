"""Faust as it comes, on its own settings but for what keeps it quiet."""

from typing import Any

import faust


def quiet_app(name: str, servers: str, folder: str, **more: Any) -> faust.App:
    """An application of this name, with its files in a folder."""
    return faust.App(
        name,
        broker=f"kafka://{servers}",
        datadir=folder,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        **more,
    )
