"""``runbooks`` in the test's own process: what its ``main`` prints and the status that it ends with."""

import os
import sys
from typing import NamedTuple

from typer.testing import CliRunner

from app.cli import main

OURS = ("RUNBOOKS_", "API_URL", "KAFKA_BOOTSTRAP_SERVERS", "OPERATOR_JWT", "VIEWER_JWT", "APPROVER_JWT", "ADMIN_JWT")


class Ended(NamedTuple):
    """How a command ended: its exit status, and what stands on its two outputs."""

    status: int
    out: str
    err: str


def run_main(folder, *arguments, stdin: bytes = b"", **environment: str) -> Ended:
    """Run a command whose data folder is this one, with these variables and no others of ours."""
    arguments_before, environment_before, status = sys.argv, dict(os.environ), 0
    with CliRunner().isolation(input=stdin) as (out, err, _):
        try:
            for name in [name for name in os.environ if name.startswith(OURS)]:
                del os.environ[name]
            os.environ.update({"RUNBOOKS_DATA_DIR": str(folder), **environment})
            sys.argv = ["runbooks", *map(str, arguments)]
            main()
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            sys.argv = arguments_before
            os.environ.clear()
            os.environ.update(environment_before)
            sys.stdout.flush()
            sys.stderr.flush()
        return Ended(status, out.getvalue().decode(), err.getvalue().decode())
