"""The threat model: every test that it names is there, and no threat is without one."""

import re
from pathlib import Path

PAGE = Path("docs/security.md").read_text()
MODEL = PAGE.partition("## Threat model")[2].partition("\n## ")[0]
ROWS = [line.strip("|").split("|") for line in MODEL.splitlines() if line.startswith("| ")][1:]
LINTED = "mistakes in the code"
"""What is shown by `make lint` and not by a test."""


def test_every_threat_names_its_defence_and_a_test():
    assert len(ROWS) > 15
    for threat, defence, shown, _ in ROWS:
        assert defence.strip(), threat
        assert "`" in shown or LINTED in threat, threat


def test_every_test_that_is_named_is_there():
    named = [name for _, _, shown, _ in ROWS for name in re.findall("`(.+?)`", shown)]
    for name in named:
        path, _, inner = name.partition("::")
        text = Path("tests", path).read_text()
        kind = "class" if inner.startswith("Test") else "def"
        assert not inner or re.search(rf"\b{kind} {inner}\b", text), name
