"""Builds what is published, installs it beside no source tree, and tests it there.

    .venv/bin/python .ci/wheel.py

sdist -> native wheel, the same without the NumPy module (for every Python), and pure-Python wheel,
built from the unpacked sdist -> a fresh virtual environment for the first and the last, which
borrows torch and the rest from the environment that runs this script.
"""

from __future__ import annotations

import importlib.util
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
    "CMakeLists.txt", "cmake/pyxai_fastConfig.cmake.in", "setup.py", "pyproject.toml", "LICENSE",
    "README.md", "examples/captum_integrated_gradients.py", "csrc/python/module.cpp",
    "csrc/include/pyxai_fast/config.h", "csrc/cpu/isa.cpp", "csrc/cuda/launch.cuh",
    "csrc/torch/tensors.h", "pyxai_fast/version.txt", "pyxai_fast/py.typed", "tests/conftest.py",
)  # fmt: skip
# What a wheel must hold besides modules.
SHIPPED = (
    "demo/digits_cnn.safetensors",
    "serving/page/index.html",
    "serving/page/page.js",
    "py.typed",
)
LIBRARY = "_ops_cpu.so"
MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
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
        native = wheel(source, work / "native")
        every_python = wheel(source, work / "every-python", PYXAI_FAST_PYTHON="off")
        pure = wheel(source, work / "pure", PYXAI_FAST_NATIVE="off")
        shutil.rmtree(source)

        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        if has_pybind11():
            check(native, f"{python}-{python}{sys.abiflags}-{platform}", {LIBRARY, MODULE})
        else:
            check(native, f"py3-none-{platform}", {LIBRARY})
        check(every_python, f"py3-none-{platform}", {LIBRARY})
        check(pure, "py3-none-any", set())

        tests = copied_tests(work / "copy")
        # Whether the package is whole and loads; its kernels are those that the suite tests.
        names = ("path_ops", "integrated_gradients", "arrays", "import", "packaging")
        files = [tests / f"test_{name}.py" for name in names]
        test(native, work / "native-venv", "loaded", files)
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
        # Python 3.11.0 to 3.11.3 have no filters; it is our own archive.
        tar.extractall(
            work / "sdist", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    (source,) = (work / "sdist").iterdir()
    missing = [name for name in NEEDED if not (source / name).is_file()]
    built_things = [str(path) for path in source.rglob("*.so")]
    if missing or built_things:
        raise SystemExit(f"wheels: {archive.name} lacks {missing}, should not hold {built_things}")
    print(f"wheels: {archive.name}: {archive.stat().st_size // 1024} KiB")
    return source


def has_pybind11() -> bool:
    """Whether the NumPy module can be built here."""
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    return headers and importlib.util.find_spec("pybind11") is not None


def wheel(source: Path, directory: Path, **environment: str) -> Path:
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
        "--no-index", "--wheel-dir", directory, source,
        cwd=source.parent, **environment,
    )  # fmt: skip
    (path,) = directory.glob("*.whl")
    return path


def check(path: Path, tag: str, libraries: set[str]) -> None:
    print(f"wheels: {path.name}: {path.stat().st_size // 1024} KiB")
    if not path.name.endswith(f"-{tag}.whl"):
        raise SystemExit(f"wheels: {path.name} must be tagged {tag}")
    names = zipfile.ZipFile(path).namelist()
    native = {Path(name).name for name in names if name.startswith("pyxai_fast/_native/")}
    if native - {"build_info.json", "_ops_cuda.so"} != libraries:
        raise SystemExit(f"wheels: {path.name} must hold {libraries}, and holds {native}")
    absent = [name for name in SHIPPED if f"pyxai_fast/{name}" not in names]
    if absent:
        raise SystemExit(f"wheels: {path.name} must hold {absent}, and does not")
    roots = {name.split("/", 1)[0] for name in names}
    strays = [name for name in roots if name != "pyxai_fast" and not name.endswith(".dist-info")]
    strays += [name for name in names if name.endswith((".h", ".a", ".cmake", ".cpp", ".cu"))]
    if strays:
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
