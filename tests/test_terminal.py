"""Output on a terminal: tables instead of Markdown, wrapped lines; pipes receive plain text."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MARKDOWN = """### A title

The text has `cep_self` and a − b.

| task | method | each seed |
|---|---|---|
| local/hopper-medium-replay | cep_self | 1.0, 2.5, 130.2, −4.0, 5.5, 6.5, 7.5 |
| local/maze2d-umaze | mse |  |
"""
TABLE = f"from cepnb.tools.terminal import print_markdown as show; show({MARKDOWN!r})"
ROWS = [("w2", "1.25", " ".join(["distance"] * 12)), ("longer_name", "3", "")]
COLUMNS = f"from cepnb.tools.terminal import print_columns as show; show({ROWS!r})"


def on_a_terminal(code: str, width: int) -> str:
    """Run code in a process whose standard output is a terminal; return what it shows, uncoloured."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux reports the end of the other side as an error
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).replace("\r\n", "\n")


def in_a_pipe(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "40"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("width", [45, 100])
def test_a_terminal_shows_tables_and_loses_no_text(width: int) -> None:
    shown = on_a_terminal(TABLE, width)
    assert "|" not in shown and "###" not in shown and "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for text in ("A title", "cep_self", "1.0,", "130.2,", "−4.0,", "7.5"):
        assert text in shown
    (column,) = [line.index("method") for line in shown.splitlines() if "task" in line]
    name = "".join(line[:column].strip() for line in shown.splitlines()[5:])
    assert "local/hopper-medium-replay" in name and "local/maze2d-umaze" in name


def test_a_pipe_receives_markdown() -> None:
    assert in_a_pipe(TABLE) == MARKDOWN + "\n"


def test_columns_are_aligned_and_wrapped() -> None:
    first, *others, last = on_a_terminal(COLUMNS, 60).splitlines()
    assert first.startswith("w2           1.25  distance distance") and len(first) <= 60
    assert others and all(line.startswith(" " * 19 + "distance") for line in others)
    assert last == "longer_name  3"
    assert in_a_pipe(COLUMNS).splitlines() == [f"w2           1.25  {ROWS[0][2]}", last]
