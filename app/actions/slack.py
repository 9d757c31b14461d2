"""Send a Slack message."""

from app.actions.scene import Scene
from app.clients.slack import MAX_TEXT, escape
from app.core.errors import PermanentError
from app.core.model import JsonObject
from app.core.planning import Outcome, Prepared
from app.core.steps import SlackStep

MANUAL = "a message that was read cannot be taken back"
SHOWN = 120


class SlackAction:
    """Prepare checks that Slack is configured; apply posts."""

    async def prepare(self, step: SlackStep, scene: Scene) -> Prepared:
        """What will be posted where; raises PermanentError when Slack is off, or would cut the message off."""
        scene.clients.slack.check()
        size = len(escape(step.message))
        if size > MAX_TEXT:
            raise PermanentError(f"the message has {size} characters once it is escaped, and Slack takes {MAX_TEXT}")
        shown = step.message if len(step.message) <= SHOWN else step.message[: SHOWN - 1] + "…"
        params = {"channel": step.channel, "message": step.message}
        return Prepared.of(f'Post to {step.channel}: "{shown}"', params=params, manual_reason=MANUAL)

    async def apply(self, step: SlackStep, plan: Prepared, scene: Scene) -> Outcome:  # noqa: ARG002 - the protocol's
        """Post it, escaped so that event text can neither mention nor link.

        An execution's messages to one channel are one thread: the first begins it.
        """
        thread = _thread(scene.earlier, step.channel)
        message = await scene.clients.slack.post_message(step.channel, escape(step.message), thread)
        output = {"channel": message.channel_id, "ts": message.ts, "thread_ts": thread, "posted_to": step.channel}
        return Outcome(outcome="succeeded", output=output)


def _thread(earlier: tuple[JsonObject, ...], channel: str) -> str | None:
    """The first message that an earlier step posted to the channel, by its timestamp."""
    for view in earlier:
        output = view.get("output")
        if view.get("type") == "slack" and isinstance(output, dict) and output.get("posted_to") == channel:
            return str(output["ts"])
    return None
