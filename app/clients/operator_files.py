"""Files that an operator writes: YAML or JSON, in which no key may stand twice."""

import json
from pathlib import Path
from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: of two entries with one name, the wrong one would be used."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        return _without_doubles(keys, super().construct_mapping(node, deep))


def _without_doubles(keys: list[str], content: dict[Any, Any]) -> dict[Any, Any]:
    double = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if double is not None:
        raise ValueError(f"{double!r} stands there twice: remove one of them")
    return content


def read_content(path: Path) -> object:
    """What the file holds; it is JSON where its name says so.

    Raises OSError, ValueError, RecursionError or yaml.YAMLError.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(
            text, object_pairs_hook=lambda pairs: _without_doubles([key for key, _ in pairs], dict(pairs))
        )
    return yaml.load(text, _UniqueKeys)  # noqa: S506 - a safe loader # nosec B506
