"""The table of versions: which pairs are tried, and that none has passed that was not run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import version_matrix as matrix
from version_matrix import FAILED, NEWEST, NOT_RUN, PASSED, NotThere, Result

URL = "https://somewhere/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"


class Fake:
    """Runs nothing: commands are told by what they contain, and the first that fits answers."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        self.answers, self.commands = answers, []

    def __call__(
        self, command: Sequence[str | Path], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        told = " ".join(map(str, command))
        self.commands.append(told)
        for part, (code, out, error) in self.answers.items():
            if part in told:
                return subprocess.CompletedProcess(list(command), code, out, error)
        return subprocess.CompletedProcess(list(command), 0, "12 passed in 3 s\n", "")


def report(version: str = "2.13.0+cpu", url: str = URL) -> str:
    found = {"metadata": {"version": version}, "download_info": {"url": url}}
    return json.dumps({"install": [found]})


def pair(run: Fake, tmp_path: Path, wish: str = "2.11") -> Result:
    return matrix.try_pair(
        "3.11.7", "python3.11", wish, "index", Path("x.whl"), Path("t"), tmp_path, run
    )


def test_the_oldest_versions_are_those_of_the_project(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["torch>=2.11", "numpy"]\n'
    )
    assert matrix.supported(file) == ((3, 11), "2.11")


@pytest.mark.skipif(
    not (matrix.ROOT / "CMakeLists.txt").exists(), reason="this is a copy of tests/"
)
def test_the_project_names_versions_that_are_understood() -> None:
    (major, minor), torch = matrix.supported()
    assert (major, minor) <= sys.version_info[:2] and torch.count(".") == 1
    assert all((matrix.ROOT / "tests" / name).is_file() for name in matrix.TESTS)


def test_one_python_of_each_minor_version_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"python3.11": "3.11.7", "python3.12": "3.12.1", "python3.14": "3.14.0rc1"}
    monkeypatch.setattr(matrix.shutil, "which", lambda name: name if name in versions else None)
    run = Fake(**{name: (0, f"{version}\n", "") for name, version in versions.items()})
    assert matrix.pythons([], (3, 11), run) == {v: k for k, v in versions.items()}
    assert list(matrix.pythons([], (3, 12), run)) == ["3.12.1", "3.14.0rc1"]
    old = Fake(python=(0, "3.9.18\n", ""))
    assert matrix.pythons(["python3.11"], (3, 11), old) == {}
    broken = Fake(python=(1, "", "no module named venv"))
    assert matrix.pythons(["python3.11"], (3, 11), broken) == {}
    with pytest.raises(SystemExit, match=r"there is no python3\.99"):
        matrix.pythons(["python3.99"], (3, 11), run)


def test_torch_is_asked_for_without_its_other_builds() -> None:
    run = Fake(dry=(0, report(), ""))
    assert matrix.wheel_of_torch(Path("python"), "2.11", "index", run) == ("2.13.0+cpu", URL)
    assert "torch==2.11.*" in run.commands[0] and "--index-url index" in run.commands[0]
    matrix.wheel_of_torch(Path("python"), NEWEST, "index", run)
    assert run.commands[1].endswith(" torch")
    mac = report("2.13.0", "https://somewhere/torch-2.13.0-cp311-none-macosx_14_0_arm64.whl")
    assert matrix.wheel_of_torch(Path("python"), "2.13", "", Fake(dry=(0, mac, "")))[0] == "2.13.0"
    with pytest.raises(NotThere, match=r"2\.14\.1 is no wheel for the CPU alone"):
        matrix.wheel_of_torch(Path("p"), NEWEST, "", Fake(dry=(0, report("2.14.1"), "")))


def test_a_torch_that_cannot_be_had_has_not_passed(tmp_path: Path) -> None:
    said = "WARNING: retrying\nERROR: No matching distribution found for torch==2.11.*\n"
    found = pair(Fake(dry=(1, "", said)), tmp_path)
    assert found == Result(
        "3.11.7", "2.11", NOT_RUN, "No matching distribution found for torch==2.11.*"
    )
    assert matrix.exit_code([found]) == 2


def test_a_pair_passes_when_every_step_does(tmp_path: Path) -> None:
    run = Fake(**{"--dry-run": (0, report(), "")})
    assert pair(run, tmp_path) == Result("3.11.7", "2.13.0+cpu", PASSED, "12 passed in 3 s")
    told = "\n".join(run.commands)
    assert "--no-deps x.whl" in told and "native_kernels(False)" in told
    assert all(name in told for name in matrix.TESTS)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("-m venv", "venv"),
        (URL, "torch"),
        ("x.whl", "wheel"),
        ("-c ", "smoke"),
        ("pytest -p", "tests"),
    ],
)
def test_a_step_that_fails_fails_the_pair(part: str, what: str, tmp_path: Path) -> None:
    answers = {"--dry-run": (0, report(), ""), part: (1, "1 failed", "it\nbroke\n")}
    found = pair(Fake(**answers), tmp_path)
    assert (found.outcome, found.reason) == (FAILED, f"{what}: broke")
    assert matrix.exit_code([found, Result("3.11.7", "2.13", PASSED, "")]) == 1


def test_the_exit_code_says_whether_anything_was_run() -> None:
    passed, missing = Result("3.11.7", "2.13", PASSED, "ok"), Result("3.12.1", "2.11", NOT_RUN, "x")
    assert matrix.exit_code([passed, missing]) == 0
    assert matrix.exit_code([missing, missing]) == 2
    assert matrix.exit_code([]) == 2


def test_the_table_has_a_line_for_each_pair() -> None:
    results = [
        Result("3.11.7", "2.13.0+cpu", PASSED, "12 passed"),
        Result("3.12.1", "2.11", NOT_RUN, "no wheel"),
    ]
    assert matrix.table(results).splitlines() == [
        "python  torch",
        "3.11.7  2.13.0+cpu  passed   12 passed",
        "3.12.1  2.11        not run  no wheel",
    ]
