"""Run a shell command on a host of the inventory."""

import shlex

from pydantic import JsonValue

from app.actions.scene import Scene
from app.clients.ssh_script import Script
from app.clients.ssh_session import Output, Ran
from app.core.planning import ActionFailure, Outcome, Prepared, fitted, size_of
from app.core.shell_words import shown
from app.core.steps import ShellStep

MANUAL = "a command cannot be taken back"


class ShellAction:
    """Prepare checks all that can be known without running anything; apply runs the command."""

    async def prepare(self, step: ShellStep, scene: Scene) -> Prepared:
        """What will be run where and as whom, secrets by name; a connection is there then, and nothing was run.

        Raises PermanentError or TemporaryError when it could not be run.
        """
        host = await scene.clients.ssh.check(scene.tenant, step.host, _script(step, scene))
        params: dict[str, JsonValue] = {
            "host": step.host,
            "address": f"{host.user}@{host.address}:{host.port}",
            "command": step.command,
            "arguments": list(step.arguments),
            "environment": dict(step.environment),
            "stdin": step.stdin,
            "sudo_user": step.sudo_user,
        }
        return Prepared.of(_summary(step), params=params, manual_reason=MANUAL)

    async def apply(self, step: ShellStep, plan: Prepared, scene: Scene) -> Outcome:  # noqa: ARG002 - the protocol's
        """Run it; keeps what it said, also of one that was stopped."""
        ran = await scene.clients.ssh.run(scene.tenant, step.host, _script(step, scene), step.timeout_seconds)
        output, truncated = _output(ran, scene)
        if ran.doubt is not None:
            error = ActionFailure(message=f"{ran.doubt}: its effect is unknown")
            return Outcome(outcome="unknown", output=output, error=error, truncated=truncated)
        if ran.exit_status == 0:
            return Outcome(outcome="succeeded", output=output, truncated=truncated)
        how = f"exited with status {ran.exit_status}" if ran.signal is None else f"was killed by signal {ran.signal}"
        error = ActionFailure(message=f"the command {how}")
        return Outcome(outcome="failed", output=output, error=error, truncated=truncated)


def _script(step: ShellStep, scene: Scene) -> Script:
    """The script with its secrets; raises PermanentError when one is missing."""
    secrets, tenant = scene.clients.secrets, scene.tenant
    return Script(
        text=step.command,
        arguments=step.arguments,
        environment={name: secrets.resolve(tenant, value) for name, value in step.environment.items()},
        stdin=secrets.resolve(tenant, step.stdin or ""),
        sudo_user=step.sudo_user,
    )


def _summary(step: ShellStep) -> str:
    """The whole command, however long: nobody approves what they were not shown.

    Arguments that stand in no ``${n}`` of the command come after it.
    """
    given = enumerate(step.arguments, 1)
    rest = [f"${number} = {shlex.quote(one)}" for number, one in given if f"${{{number}}}" not in step.command]
    user = f" as {step.sudo_user} via sudo" if step.sudo_user else ""
    after = f", where {', '.join(rest)}" if rest else ""
    return _visible(f"Run `{shown(step.command, step.arguments)}` on {step.host}{user}{after}")


def _visible(text: str) -> str:
    """The text with what would not show, or would change how the rest shows, written as an escape."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def _output(ran: Ran, scene: Scene) -> tuple[JsonValue, bool]:
    """What is kept, within the scene's room, and whether some was dropped; each stream has half if both need it."""
    kept: dict[str, JsonValue] = {"exit_status": ran.exit_status, "signal": ran.signal, "stdout": "", "stderr": ""}
    room = max(0, scene.room - size_of(kept))
    out, err = _masked(scene, ran.stdout), _masked(scene, ran.stderr)
    kept["stderr"], err_cut = fitted(err, max(room // 2, room - size_of(out)))
    kept["stdout"], out_cut = fitted(out, room - size_of(kept["stderr"]))
    return kept, ran.stdout.truncated or ran.stderr.truncated or out_cut or err_cut


def _masked(scene: Scene, output: Output) -> str:
    secrets = scene.clients.secrets
    return secrets.mask_cut(scene.tenant, output.text) if output.truncated else secrets.mask(scene.tenant, output.text)
