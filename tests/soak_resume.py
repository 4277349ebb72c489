"""A thousand pictures survive ten times ``kill -9`` with the bytes of a run that was never stopped.

Not a test of the suite, for it takes minutes: ``python tests/soak_resume.py [FOLDER]``. It prints
what it finds, and exits with 1 where a byte differs.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from job_cases import draw, files_of
from killed_runs import finish, kill_at_random

PICTURES, SHARD, KILLS, SEED = 1000, 20, 10, 7


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    paths = draw(folder / "pictures", PICTURES, (32, 32))
    for path in paths[::111]:
        path.write_bytes(path.read_bytes()[:200])
    arguments = [
        str(folder / "pictures"), "--model", "demo", "--device", "cpu", "--batch-size", "8",
        "--shard-size", str(SHARD), "--workers", "1",
    ]  # fmt: skip
    began = time.perf_counter()
    _, said = finish(arguments, folder / "undisturbed")
    print(f"undisturbed, {time.perf_counter() - began:.1f} s:\n{said}")

    generator, killed = random.Random(SEED), folder / "killed"
    began, kills, unfinished = time.perf_counter(), 0, 0
    while kills < KILLS:
        done = kill_at_random(arguments, killed, generator, PICTURES // SHARD, range(6))
        if done is None:
            break
        kills += 1
        left = len(list(killed.rglob(".*unfinished*")))
        unfinished += left
        print(f"kill {kills}: {done} of {PICTURES // SHARD} shards done, {left} unfinished files")
    _, said = finish(arguments, killed, "--resume")
    print(f"killed {kills} times and finished, {time.perf_counter() - began:.1f} s:\n{said}")

    expected, found = files_of(folder / "undisturbed"), files_of(killed)
    differing = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    size = sum(len(data) for data in expected.values())
    print(
        f"{len(expected)} files, {size / 2**20:.1f} MiB, {unfinished} unfinished files swept away: "
        + (f"differing: {', '.join(differing)}" if differing else "every byte is the same")
    )
    if len(sys.argv) <= 1:
        shutil.rmtree(folder)
    return 1 if differing or kills < KILLS else 0


if __name__ == "__main__":
    sys.exit(main())
