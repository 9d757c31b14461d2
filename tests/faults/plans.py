"""What a run injects and when: all of it follows from the run's seed, so that a run can be repeated by its number."""

import random
from dataclasses import dataclass
from typing import Any

KINDS = (
    "worker_killed",
    "worker_terminated",
    "worker_stopped",
    "broker_killed",
    "rebalance",
    "network_cut",
    "network_stalled",
    "disk_full",
    "slow_targets",
    "database_gone",
)
WORKERS = 2
OVERLAPPING = 0.2
"""How many faults begin while the one before still stands."""
TARGET_MODES = ("slow", "silent", "refusing", "resetting")


@dataclass(frozen=True)
class Profile:
    """How long things take in a run; all in seconds.

    lease_s, heartbeat_s, session_timeout_s: the workers' settings. stopped_s, cut_s, gone_s: how long a worker stays
    stopped, a network cut, a disk, a database or a target bad. pause_s: between a fault's end and the next one.
    settle_s: how long after the last fault's end everything must have ended.
    """

    lease_s: float
    heartbeat_s: float
    session_timeout_s: float
    stopped_s: tuple[float, float]
    cut_s: tuple[float, float]
    gone_s: tuple[float, float]
    pause_s: tuple[float, float]
    settle_s: float


SHORT = Profile(
    lease_s=4,
    heartbeat_s=1,
    session_timeout_s=6,
    stopped_s=(6, 8),
    cut_s=(2, 4),
    gone_s=(2, 4),
    pause_s=(0.5, 2),
    settle_s=60,
)
FULL = Profile(
    lease_s=10,
    heartbeat_s=3,
    session_timeout_s=6,
    stopped_s=(12, 30),
    cut_s=(1, 15),
    gone_s=(2, 12),
    pause_s=(0, 8),
    settle_s=120,
)


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, when it begins, how long it stands, and what it hits.

    overlaps: it begins after_s seconds after the one before has begun, otherwise after that one is over and all is
    whole again. worker: counted from 0; None means all. detail: what else is chosen.
    """

    number: int
    kind: str
    after_s: float
    overlaps: bool
    lasts_s: float
    worker: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        hit = "" if self.worker is None else f" worker {self.worker}"
        more = f" ({self.detail})" if self.detail else ""
        when = "begins" if self.overlaps else "is over"
        return f"{self.after_s:4.1f} s after the last {when}: {self.kind}{hit}{more} for {self.lasts_s:.1f} s"


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    profile: Profile
    faults: tuple[Fault, ...]
    rate: float
    database: str

    def lines(self) -> list[str]:
        """What will be done, for people."""
        head = f"seed {self.seed}: {len(self.faults)} faults, {self.rate:g} anomalies/s, history in {self.database}"
        return [head, *(f"  {fault}" for fault in self.faults)]


def make_plan(
    seed: int,
    count: int,
    profile: Profile,
    rate: float,
    database: str | None = None,
    only: tuple[str, ...] = KINDS,
) -> Plan:
    """The plan of a seed: each kind once before any comes again, in an order and at moments of the seed's own.

    database: None lets the seed choose. only: these kinds.
    """
    chance = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += chance.sample(only, len(only))
    faults: list[Fault] = []
    for number, kind in enumerate(kinds[:count]):
        overlaps = bool(faults) and chance.random() < OVERLAPPING
        after_s = faults[-1].lasts_s * chance.random() if overlaps else chance.uniform(*profile.pause_s)
        hit = _fields(chance, kind, profile)
        faults.append(Fault(number=number, kind=kind, after_s=after_s, overlaps=overlaps, **hit))
    return Plan(seed, profile, tuple(faults), rate, database or chance.choice(("sqlite", "postgresql")))


def _fields(chance: random.Random, kind: str, profile: Profile) -> dict[str, Any]:
    """What a kind of fault chooses: how long it stands, and what it hits."""
    one = chance.randrange(WORKERS)
    match kind:
        case "worker_stopped":
            return {"lasts_s": chance.uniform(*profile.stopped_s), "worker": one}
        case "worker_killed" | "worker_terminated":
            return {"lasts_s": chance.uniform(0, profile.gone_s[1]), "worker": one}
        case "network_cut" | "network_stalled":
            whom = chance.choice((0, 1, None))
            return {"lasts_s": chance.uniform(*profile.cut_s), "worker": whom}
        case "slow_targets":
            return {"lasts_s": chance.uniform(*profile.gone_s), "detail": chance.choice(TARGET_MODES)}
        case "broker_killed":
            return {"lasts_s": chance.uniform(0, profile.gone_s[1])}
        case "rebalance":
            detail = chance.choice(("leaves", "is killed"))
            return {"lasts_s": chance.uniform(6, 6 + profile.gone_s[1]), "detail": detail}
        case _:
            return {"lasts_s": chance.uniform(*profile.gone_s)}
