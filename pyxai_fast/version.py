"""The version, held in version.txt so that CMake and setuptools read it too."""

from pathlib import Path

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()
