"""Commands of the documentation on what `make demo` leaves run as they are printed, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import ROOT, arguments_of, commands, pages

from pyxai_fast.cli import main

# That ends only when it is stopped, or begins a cluster: these have tests of their own.
ELSEWHERE = {"serve", "--ray"}

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="tests the source tree; this is a copy of tests/"
)


def of_page(page: Path) -> Iterator[list[str]]:
    """What its commands give to pyxai-fast."""
    for command in commands(page.read_text(encoding="utf-8")):
        arguments = arguments_of(command)
        if arguments:
            yield arguments


def on_the_demo(page: Path) -> list[list[str]]:
    return [
        arguments
        for arguments in of_page(page)
        if any(word.startswith("demo/") for word in arguments)
        and "demo" in arguments
        and not ELSEWHERE & set(arguments)
    ]


@pytest.fixture(scope="module")
def of_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with as much of `demo/` as commands name."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("PIL", reason="pictures need Pillow")
    from pyxai_fast.audio import write_audio
    from pyxai_fast.demo import load_digits
    from pyxai_fast.demo.changes import save_digits
    from pyxai_fast.demo.sounds import RATE, example

    folder = tmp_path_factory.mktemp("made")
    digits, labels = load_digits("test")
    save_digits(digits[:12], labels[:12], folder / "digits")
    try:
        write_audio(folder / "sound.wav", example().waveform, RATE)
    except ImportError as error:
        pytest.skip(str(error))
    return folder


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in pages() if on_the_demo(page)], ids=named)
def test_commands_on_the_demo_run_one_after_the_other(
    page: Path, of_the_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("diffusers", "pyarrow", "skimage", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    (tmp_path / "demo").symlink_to(of_the_demo)
    monkeypatch.chdir(tmp_path)
    for arguments in on_the_demo(page):
        assert main(arguments) == 0, " ".join(arguments)
        out = Path(arguments[arguments.index("--out") + 1])
        assert any(out.iterdir()), " ".join(arguments)


@pytest.mark.parametrize("page", pages(), ids=named)
def test_no_command_of_a_page_is_refused_for_what_one_before_it_wrote(page: Path) -> None:
    written: set[str] = set()
    for arguments in of_page(page):
        if "--out" not in arguments or "SOURCE" in arguments:  # which stands for any
            continue
        out = arguments[arguments.index("--out") + 1].rstrip("/")
        goes_on = {"--resume", "--overwrite"} & set(arguments)
        assert goes_on or out not in written, f"{named(page)}: {' '.join(arguments)}"
        written.add(out)


def test_there_are_commands_on_the_demo() -> None:
    assert sum(len(on_the_demo(page)) for page in pages()) >= 8
