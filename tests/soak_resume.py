"""A thousand pictures survive ten times ``kill -9`` with the bytes of a run that was never stopped.

They have them too where two workers of a Ray cluster explain them, if Ray is installed. Not a test
of the suite, for it takes six minutes on two cores: ``python tests/soak_resume.py [FOLDER]``. It
prints what it finds, and exits with 1 where a byte differs.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from job_cases import draw, files_of
from killed_runs import finish, kill_at_random

PICTURES, SHARD, KILLS, SEED = 1000, 20, 10, 7
READER = ("--workers", "1")
RAY = ("--ray", "--ray-workers", "2", "--ray-cpus-per-worker", "1", "--workers", "0")


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    paths = draw(folder / "pictures", PICTURES, (32, 32))
    for path in paths[::111]:
        path.write_bytes(path.read_bytes()[:200])
    arguments = [
        str(folder / "pictures"), "--model", "demo", "--device", "cpu", "--batch-size", "8",
        "--shard-size", str(SHARD),
    ]  # fmt: skip
    print(f"undisturbed, {timed(arguments, folder / 'undisturbed', *READER)}")

    generator, killed = random.Random(SEED), folder / "killed"
    kills, unfinished = 0, 0
    while kills < KILLS:
        done = kill_at_random([*arguments, *READER], killed, generator, PICTURES // SHARD, range(6))
        if done is None:
            break
        kills += 1
        left = len(list(killed.rglob(".*unfinished*")))
        unfinished += left
        print(f"kill {kills}: {done} of {PICTURES // SHARD} shards done, {left} unfinished files")
    print(f"killed {kills} times, the rest, {timed(arguments, killed, *READER, '--resume')}")
    same = are_same(folder / "undisturbed", killed)
    print(f"{unfinished} unfinished files swept away")

    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed: no job on a cluster")
    else:
        print(f"two workers on Ray, {timed(arguments, folder / 'ray', *RAY)}")
        same = are_same(folder / "undisturbed", folder / "ray") and same
    if len(sys.argv) <= 1:
        shutil.rmtree(folder)
    return 0 if same and kills == KILLS else 1


def timed(arguments: list[str], out: Path, *more: str) -> str:
    """Finishes a run; how long that took, and what it said."""
    began = time.perf_counter()
    _, said = finish(arguments, out, *more)
    return f"{time.perf_counter() - began:.1f} s:\n{said}"


def are_same(one: Path, other: Path) -> bool:
    """Whether two folders have the same results, which it prints."""
    expected, found = files_of(one), files_of(other)
    differing = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    size = sum(len(data) for data in expected.values())
    print(
        f"{len(expected)} files, {size / 2**20:.1f} MiB: "
        + (f"differing: {', '.join(differing)}" if differing else "every byte is the same")
    )
    return not differing


if __name__ == "__main__":
    sys.exit(main())
