"""The runbook for clusters says what the command takes and does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyxai_fast.cli import main

TEXT = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_options_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    joined = TEXT.replace("\\\n", " ")  # lines that go on
    commands = re.findall(r"(?:pyxai-fast|-m pyxai_fast) run ([^\n`]*)", joined)
    tables = re.findall(r"`(--(?:ray-|workers|resume|overwrite|store|shard|limit)[a-z-]*)", TEXT)
    used = set(tables)
    for command in commands:
        used |= set(re.findall(r"--[a-z][a-z-]+", re.sub(r"\|\|.*|#.*", "", command)))
    assert len(commands) >= 8 and len(used) >= 12
    assert used <= known


def test_messages_are_those_of_the_package() -> None:
    messages = re.findall(r"^\| `([^`]+)`", TEXT.partition("## What goes wrong")[2], re.M)
    sources = Path(__file__).parents[1] / "pyxai_fast"
    said = "".join(
        path.read_text(encoding="utf-8")
        for path in [*(sources / "jobs").glob("*.py"), *sources.glob("cli_*.py")]
    )
    said = re.sub(r'"\s*\n\s*f?"|\s+', " ", said)
    assert len(messages) >= 12
    # Their fixed words, without what stands for a name or a number.
    for message in messages:
        if message.startswith("System error"):  # Ray's
            continue
        parts = re.sub(r"\.\.\.|HOST|\d+( [CG]PUs)?|\(process|versions.torch|, got", "|", message)
        words = max(parts.split("|"), key=len)
        assert words.strip() in said, message
