"""Of Faust's recoveries only the latest ends, and only while nothing was given up since it began."""

import asyncio
from types import SimpleNamespace

import pytest
from faust.types import TP

from app.streams.app import StreamSettings, build_app, declare_table, membership_of
from app.streams.connection import KafkaConnection
from app.streams.ledger import is_newer_claim, outline_of_claim
from app.streams.membership import Membership
from app.streams.recovering import Recoveries


class TestWhichEnds:
    def recoveries(self):
        self.membership = Membership(10, lambda: 0.0)
        return Recoveries(self.membership)

    def test_the_one_that_has_begun(self):
        some = self.recoveries()
        some.begins(1)
        assert some.ends(1)
        assert some.is_current()

    def test_none_once_its_partitions_were_given_up(self):
        some = self.recoveries()
        some.begins(1)
        self.membership.shared_out()
        assert not some.ends(1)

    def test_none_of_an_earlier_generation(self):
        some = self.recoveries()
        some.begins(1)
        self.membership.shared_out()
        some.begins(2)
        assert not some.ends(1)
        assert some.ends(2)

    @pytest.mark.parametrize("assigned_again", [False, True])
    def test_one_that_was_let_end_is_not_current_once_they_are_given_up(self, assigned_again):
        some = self.recoveries()
        some.begins(1)
        assert some.ends(1)
        self.membership.shared_out()
        if assigned_again:
            some.begins(2)
        assert not some.is_current()


class Consumer:
    """Tells where the changelogs end when it may."""

    def __init__(self, places):
        self.places, self.may_tell, self.asked = places, asyncio.Event(), asyncio.Event()

    async def highwaters(self, *places):
        self.asked.set()
        await self.may_tell.wait()
        return dict.fromkeys(places, 0)

    async def earliest_offsets(self, *places):
        return dict.fromkeys(places, 0)

    async def seek_wait(self, offsets):
        pass

    async def perform_seek(self):
        pass

    def assignment(self):
        return self.places

    def resume_partitions(self, places):
        pass

    pause_partitions = resume_partitions

    def stop_flow(self):
        pass

    resume_flow = stop_flow


class World:
    """Faust's own recovery over that consumer, and what the table says is owned."""

    def __init__(self, folder):
        self.app = build_app(KafkaConnection("nowhere:9"), StreamSettings("g", folder))
        self.table = declare_table(self.app, "step_ledger", 8, is_newer_claim, outline_of_claim)
        self.app.finalize()
        changelog = self.table.changelog_topic_name
        self.places = {TP(changelog, 0), TP(changelog, 1)}
        self.consumer = self.app.consumer = Consumer(self.places)
        self.app._fetcher = SimpleNamespace(maybe_start=lambda: asyncio.sleep(0), stop=lambda: asyncio.sleep(0))
        self.app.assignor.assigned_standbys = set
        self.app.assignor.assigned_actives = lambda: self.places
        self.app._producer = None
        self.app.tables._changelogs[changelog] = self.table
        self.recovery = self.app.tables.recovery
        self.membership = membership_of(self.app)
        recoveries = Recoveries(self.membership)
        recoveries.watch(self.recovery)
        self.table.is_current = recoveries.is_current
        self.owned, self.told = set(), asyncio.Event()
        self.membership.on_shared_out.append(self.owned.clear)
        self.table.on_owned = self.owns

    def owns(self, partitions):
        self.owned.update(partitions)
        self.told.set()

    async def is_assigned(self, generation):
        self.app.consumer_generation_id = generation
        await self.recovery.on_rebalance(self.places, set(), self.places, generation)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    await world.recovery.start()
    yield world
    await world.recovery.stop()


async def test_a_recovery_that_ends_while_partitions_are_shared_out_gives_none_back(world):
    await world.is_assigned(1)
    await world.consumer.asked.wait()
    world.membership.shared_out()
    ended = asyncio.Event()
    completed = world.recovery.on_recovery_completed

    async def watched(generation_id=0):
        await completed(generation_id)
        ended.set()

    world.recovery.on_recovery_completed = watched
    world.consumer.may_tell.set()
    async with asyncio.timeout(10):
        await ended.wait()
    assert (world.owned, world.told.is_set()) == (set(), False)
    await world.is_assigned(2)
    async with asyncio.timeout(10):
        await world.told.wait()
    assert world.owned == {0, 1}
