"""A command that is killed again and again, and goes on each time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def start(arguments: Sequence[str], out: Path, *more: str) -> subprocess.Popen[str]:
    """``pyxai-fast run`` in a process group of its own."""
    command = [sys.executable, "-m", "pyxai_fast", "run", *arguments, "--out", str(out), *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What a shell starts in the background, such as these tests may be, ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(arguments: Sequence[str], out: Path, *more: str) -> tuple[int, str]:
    """Its exit code, and what it says."""
    process = start(arguments, out, *more)
    said, _ = process.communicate()
    return process.returncode, said


def kill_at_random(
    arguments: Sequence[str],
    out: Path,
    generator: random.Random,
    shards: int,
    further: Sequence[int] = (0, 1, 2),
) -> int | None:
    """Starts or goes on with a run, and kills it with SIGKILL, it alone, at a random moment.

    It is killed when it has begun, or done so many more shards: up to a quarter of a second later,
    or when it next writes a file, before that is finished.

    Args:
        shards: of the run.
        further: how many more shards, one of these.

    Returns:
        How many shards were done when it died; None where it was not killed but finished.
    """
    index = out / "index"

    def done() -> int:
        return len(list(index.glob("[0-9]*.parquet")))

    def unfinished() -> set[Path]:
        return {path for kind in ("shards", "index") for path in (out / kind).glob(".*")}

    left = unfinished()
    wanted = min(done() + generator.choice(further), shards - 1)
    process = start(arguments, out, "--resume")
    try:
        while process.poll() is None and not (done() >= wanted and (out / "job.json").exists()):
            time.sleep(0.002)
        if generator.random() < 0.5:
            while process.poll() is None and unfinished() <= left:
                time.sleep(0.0002)
        else:
            time.sleep(generator.uniform(0.0, 0.25))
        if process.poll() is not None:
            said = process.communicate()[0]
            assert "results in" in said, said
            return None
        os.kill(process.pid, signal.SIGKILL)  # and not what it has started: nobody is told
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        if process.stdout is not None:
            process.stdout.close()
    return done()
