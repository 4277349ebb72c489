"""Builds what is published, installs it beside no source tree, and tests it there.

    .venv/bin/python .ci/wheel.py

sdist -> native wheel and pure-Python wheel, both built from the unpacked sdist -> one fresh virtual
environment each, which borrows torch and the rest from the environment that runs this script.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the sdist must hold to be built, tested and changed.
NEEDED = (
    "CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md",
    "csrc/include/pyxai_fast/config.h", "csrc/cpu/isa.cpp", "csrc/cuda/launch.cuh",
    "csrc/torch/tensors.h", "pyxai_fast/version.txt", "pyxai_fast/py.typed", "tests/conftest.py",
)  # fmt: skip
CHECK = """
import sys, pyxai_fast
from pathlib import Path
cpu = pyxai_fast.ops.backends()["cpu"]
print("pyxai_fast", pyxai_fast.__version__, "from", pyxai_fast.__file__, "- cpu kernels:", cpu)
assert Path(pyxai_fast.__file__).is_relative_to(sys.prefix), "not the installed package"
assert cpu == sys.argv[1], f"cpu kernels must be {sys.argv[1]}"
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pyxai_fast_wheel_") as name:
        work = Path(name)
        source = unpacked_sdist(work)
        native = wheel(source, work / "native", "on")
        pure = wheel(source, work / "pure", "off")
        shutil.rmtree(source)

        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        check(native, tag=f"py3-none-{platform}", libraries=True)
        check(pure, tag="py3-none-any", libraries=False)

        tests = copied_tests(work / "copy")
        kernels = [*tests.glob("test_*_ops.py"), tests / "test_integrated_gradients.py"]
        test(native, work / "native-venv", "loaded", [*kernels, tests / "test_packaging.py"])
        test(pure, work / "pure-venv", "not built", [tests / "test_integrated_gradients.py"])
    print("wheels: passed")


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYXAI_FAST"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env={**clean, **environment})
    if done.returncode != 0:
        raise SystemExit(f"wheels: failed: {' '.join(map(str, command))}")


def unpacked_sdist(work: Path) -> Path:
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    log = work / "sdist.log"
    with log.open("w") as output:
        built = subprocess.run(
            [sys.executable, "-c", build, str(work)], cwd=ROOT, stdout=output, stderr=output
        )
    if built.returncode != 0:
        raise SystemExit(f"{log.read_text()}\nwheels: the sdist could not be built")
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work / "sdist", filter="data")
    (source,) = (work / "sdist").iterdir()
    missing = [name for name in NEEDED if not (source / name).is_file()]
    built_things = [str(path) for path in source.rglob("*.so")]
    if missing or built_things:
        raise SystemExit(f"wheels: {archive.name} lacks {missing}, should not hold {built_things}")
    print(f"wheels: {archive.name}: {archive.stat().st_size // 1024} KiB")
    return source


def wheel(source: Path, directory: Path, native: str) -> Path:
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
        "--no-index", "--wheel-dir", directory, source,
        cwd=source.parent, PYXAI_FAST_NATIVE=native,
    )  # fmt: skip
    (path,) = directory.glob("*.whl")
    return path


def check(path: Path, *, tag: str, libraries: bool) -> None:
    print(f"wheels: {path.name}: {path.stat().st_size // 1024} KiB")
    if not path.name.endswith(f"-{tag}.whl"):
        raise SystemExit(f"wheels: {path.name} must be tagged {tag}")
    names = zipfile.ZipFile(path).namelist()
    if libraries != ("pyxai_fast/_native/_ops_cpu.so" in names):
        raise SystemExit(f"wheels: {path.name} must {'' if libraries else 'not '}hold _ops_cpu.so")
    roots = {name.split("/", 1)[0] for name in names}
    strays = [name for name in roots if name != "pyxai_fast" and not name.endswith(".dist-info")]
    if strays or any("csrc" in name for name in names):
        raise SystemExit(f"wheels: {path.name} must hold the package alone, and holds {strays}")


def copied_tests(directory: Path) -> Path:
    """tests/ and pytest's configuration, with no package beside them."""
    shutil.copytree(
        ROOT / "tests", directory / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory / "tests"


def test(path: Path, environment: Path, cpu: str, files: list[Path]) -> None:
    """Installs the wheel in a new environment and runs the tests there; `cpu` is the backend."""
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=path.parent)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", path, cwd=path.parent)
    # Borrow torch and the rest. Python reads no .pth file there, so the editable installation of
    # the source tree stays unseen.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    tests = files[0].parent
    run(python, "-c", CHECK, cpu, cwd=tests.parent)
    run(python, "-m", "pytest", *files, cwd=tests.parent)


if __name__ == "__main__":
    main()
