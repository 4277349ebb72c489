"""``python:MODULE:FACTORY``: a model made by the user's own code."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.models.from_sklearn import (
    class_names_of,
    estimator_box,
    feature_names_of,
    is_classifier,
    is_estimator,
)
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing


def load_python(name: str) -> LoadedModel:
    """Import a module or run a .py file, and call the factory in it.

    Args:
        name: ``package.module:factory`` or ``path/to/file.py:factory``. The current directory, and
            the directory of the file, can be imported from. The factory takes no arguments and
            returns an ``nn.Module`` or a ``BlackBox`` (which take pixels in [0, 1]), or one with
            its ``Preprocessing``, or a ``LoadedModel``, or for tables a fitted estimator
            (``predict_proba`` or ``predict``), which may stand in the factory's place.
    """
    return _as_loaded(made_by_python(name), f"python:{name}")


def made_by_python(name: str) -> Any:
    """What the factory that a name (as of load_python, or for a prior) points to returns."""
    spec = f"python:{name}"
    where, _, factory_name = name.rpartition(":")
    if not where or not factory_name:
        raise ModelSpecError(
            f"model spec: must be python:MODULE:FACTORY or python:FILE.py:FACTORY, got {spec!r}"
        )
    is_file = where.endswith(".py")
    folders = [os.getcwd()]
    if is_file:
        folders.insert(0, os.path.dirname(os.path.abspath(where)))
    with _importable(folders):
        module = _run_file(where, spec) if is_file else _import(where, spec)
        return _call(module, factory_name, spec)


@contextmanager
def _importable(folders: list[str]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = folders
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _run_file(path: str, spec: str) -> ModuleType:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise ModelNotFound(f"{spec}: there is no file {path}")
    stem = os.path.splitext(os.path.basename(path))[0]
    found = importlib.util.spec_from_file_location(f"pyxai_fast_user_{stem}", path)
    if found is None or found.loader is None:
        raise ModelNotFound(f"{spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[found.name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[found.name]
        raise _failed(f"{spec}: running {path} failed", error) from error
    return module


def _import(module_name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only if the module itself, or a package around it, is what is missing.
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ModelNotFound(
                f"{spec}: there is no module {module_name!r}; looked in {os.getcwd()} and among "
                "the installed packages"
            ) from error
        raise _failed(f"{spec}: importing {module_name} failed", error) from error
    except Exception as error:
        raise _failed(f"{spec}: importing {module_name} failed", error) from error


def _call(module: ModuleType, factory_name: str, spec: str) -> Any:
    factory = getattr(module, factory_name, None)
    if factory is None:
        raise ModelNotFound(f"{spec}: there is no {factory_name!r} in {module.__file__}")
    if is_estimator(factory):
        return factory
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelSpecError(
            f"{spec}: {factory_name} must be a function without arguments, or a fitted estimator, "
            f"got an object of type {type(factory).__name__}"
        )
    try:
        return factory()
    except Exception as error:
        raise _failed(f"{spec}: {factory_name}() failed", error) from error


def _failed(what: str, error: Exception) -> ModelSpecError:
    reason = (str(error).strip().splitlines() or [""])[0]
    text = f"{what}: {type(error).__name__}: {reason}"
    return MissingDependency(text) if isinstance(error, ImportError) else ModelSpecError(text)


def _as_loaded(made: Any, spec: str) -> LoadedModel:
    if isinstance(made, LoadedModel):
        return made
    if is_estimator(made):
        return _loaded_estimator(made, spec)
    if isinstance(made, (nn.Module, BlackBox)):
        return LoadedModel(made, Preprocessing(channels=_channels(made)), None, spec)
    if (
        isinstance(made, tuple)
        and len(made) == 2
        and isinstance(made[0], (nn.Module, BlackBox))
        and isinstance(made[1], Preprocessing)
    ):
        return LoadedModel(made[0], made[1], None, spec)
    raise ModelSpecError(
        f"{spec}: the factory must return an nn.Module, a BlackBox, either with its Preprocessing, "
        f"a LoadedModel or a fitted estimator, got {type(made).__name__}"
    )


def _loaded_estimator(estimator: Any, spec: str) -> LoadedModel:
    try:
        box = estimator_box(estimator)
    except TypeError as error:
        raise ModelSpecError(f"{spec}: {error}") from error
    return LoadedModel(
        box,
        Preprocessing(),
        class_names_of(estimator),
        spec,
        feature_names=feature_names_of(estimator),
        output="prob" if is_classifier(estimator) else "logit",
    )


def _channels(module: nn.Module | BlackBox) -> int:
    """1 if the first convolution takes one channel, else 3."""
    if isinstance(module, BlackBox):
        return 3
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3
