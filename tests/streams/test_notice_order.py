"""Any order of votes, ends, faults of Slack, lost workers and late folds: one message, and it says how things stand."""

import asyncio

from building import plan, scale, story
from executing_fakes import FakeTable, a_member
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from app.actions.notices import NoticeSender
from app.clients.slack import SlackMessage
from app.core.errors import OutcomeUnknown, TemporaryError
from app.core.people import SlackUsers
from app.streams.figures import Figures
from app.streams.ledger import Ledger
from app.streams.telling import NoticeLines

CHANNEL = "C00000001"
STEP = scale(require_approval=True, approval_channel=CHANNEL, approvals_required=3)


class Killed(BaseException):
    """The worker is gone."""


class Paper:
    """A Slack that goes wrong as it is told, though never three times in a row; messages: text and blocks by mark."""

    def __init__(self):
        self.messages, self.wrongs, self.row = {}, [], 0

    def _goes(self):
        wrong = self.wrongs.pop(0) if self.wrongs else "well"
        self.row = 0 if wrong == "well" or self.row == 2 else self.row + 1
        return wrong if self.row else "well"

    async def _answer(self, carry_out):
        wrong = self._goes()
        if wrong == "busy":
            raise TemporaryError("busy")
        if wrong == "ignored":
            raise OutcomeUnknown("no answer")
        answer = carry_out()
        if wrong == "unanswered":
            raise OutcomeUnknown("no answer")
        if wrong == "killed":
            raise Killed
        return answer

    async def post_message(self, channel, text, thread_ts, blocks, mark):
        def put():
            assert mark not in self.messages, "it was posted twice"
            self.messages[mark] = (text, blocks)
            return SlackMessage(channel, mark)

        return await self._answer(put)

    async def change_message(self, at, text, blocks):
        return await self._answer(lambda: self.messages.update({at.ts: (text, blocks)}) or at)

    async def find_marked(self, channel, mark, since, thread_ts):
        return await self._answer(lambda: SlackMessage(channel, mark) if mark in self.messages else None)


class World:
    """One worker at a time, the records that it has not acknowledged, and events that are not folded yet."""

    def __init__(self):
        self.story = story(STEP).prepared(plan())
        self.slack, self.table = Paper(), FakeTable()
        self.events, self.unacknowledged, self.sent = [], [], set()
        self.number = 0
        self._start()

    def _start(self):
        self.number += 1
        self.ledger = Ledger(self.table, None, f"worker {self.number}", a_member())
        self.again = {}
        sender = NoticeSender(self.slack, SlackUsers(), lambda: self.story.now, pauses_s=(0.0,) * 3)
        self.lines = NoticeLines(sender, self.ledger, self._record, Figures(CollectorRegistry()))

    async def _record(self, event):
        self.events.append(event)

    async def take(self, command):
        entry = self.ledger.find(command.command_id)
        if entry is not None and entry.done:
            self.unacknowledged.remove(command)
            return
        self.again[command.command_id] = entry is not None
        self.lines.enter(command)
        await (await self.ledger.claim(command.command_id, 0, self.story.now))()

    async def advance(self):
        for command in self.story.notices:
            if command.command_id not in self.sent:
                self.sent.add(command.command_id)
                self.unacknowledged.append(command)
                await self.take(command)

    async def work(self):
        if not self.unacknowledged:
            return
        command = self.unacknowledged[0]
        try:
            async with self.lines.turn(command):
                again = self.again[command.command_id]
                carried = await self.lines.carry_out(command, lambda: True, again=again)
                await self.ledger.finish(command.command_id, carried.posted)
        except Killed:
            await self.kill()
        else:
            self.unacknowledged.pop(0)

    async def kill(self):
        """Another worker goes on: what was not acknowledged comes again, and of what lives, all that is due."""
        self._start()
        for command in list(self.unacknowledged):
            await self.take(command)
        if not self.story.state.terminal:
            self.sent = {command.command_id for command in self.unacknowledged}

    def fold(self):
        if self.events:
            self.story.tell(self.events.pop(0))

    async def play(self, moves):
        for number, move in enumerate(moves):
            match move:
                case "vote":
                    self.story.decided(by=f"person {number}")
                case "reject":
                    self.story.decided("reject", by="no")
                case "cancel":
                    self.story.cancel()
                case "expire":
                    self.story.at(601).timer()
                case "advance":
                    await self.advance()
                case "work":
                    await self.work()
                case "fold":
                    self.fold()
                case "kill":
                    await self.kill()
                case wrong:
                    self.slack.wrongs.append(wrong)

    async def rest(self):
        """Nothing more goes wrong, and all that there is to do is done."""
        self.slack.wrongs.clear()
        for _ in range(20):
            await self.play(["advance", "work", "fold"])


ENDS = ["reject", "cancel", "expire"]
WRONGS = ["busy", "ignored", "unanswered", "killed", "well"]
MOVES = st.lists(
    st.sampled_from(["vote", "vote", *ENDS, "advance", "work", "work", "fold", "kill", *WRONGS]), max_size=30
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(MOVES)
def test_there_is_one_message_and_it_says_how_things_stand(moves):
    async def told():
        world = World()
        await world.play(moves)
        await world.rest()
        return world

    world = asyncio.run(told())
    approval = world.story.state.steps[0].approval
    assert (world.unacknowledged, world.events) == ([], [])
    assert len(world.slack.messages) <= 1
    if approval.state == "pending":
        assert len(world.slack.messages) == 1
    for text, blocks in world.slack.messages.values():
        said = approval.ended or f"Approved {len(approval.votes)} of 3"
        assert said in text
        assert ("actions" in {block["type"] for block in blocks}) == (approval.state == "pending")
    assert world.story.state.terminal or world.story.notices == []
