"""What the documentation says is so: Python runs, commands parse, links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_pages import ROOT, Block, anchors, arguments_of, blocks, commands, links, pages, run

import pyxai_fast
from pyxai_fast import (
    Counterfactual,
    DiffusionPaths,
    ExpectedGradients,
    FreeMCG,
    GeometricallyGuidedIG,
    GuidedIG,
    IntegratedGradients,
    SmoothGrad,
    StickBreaking,
    metrics,
    native,
)
from pyxai_fast.cli import _parser
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.evaluation import METRICS
from pyxai_fast.methods import DAX, METHODS, PerturbationMethod
from pyxai_fast.methods.counterfactual import COUPLINGS
from pyxai_fast.models.errors import MissingDependency

DOCS = ROOT / "docs"
PAGES = pages()
HAS_ARRAYS = native.array_module() is not None and not native.switched_off()

pytestmark = pytest.mark.skipif(
    not DOCS.is_dir(), reason="tests the source tree; this is a copy of tests/"
)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def of_language(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(read(named(page))) if block.language == language]


# --- Python --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [p for p in PAGES if of_language(p, "python")], ids=named)
def test_python_of_a_page_runs_and_is_what_its_comments_say(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where it saves things
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in of_language(page, "python"):
        if not block.is_run:
            compile(block.code, named(page), "exec")
        elif HAS_ARRAYS or not re.search(r"import arrays|\barrays\.", block.code):
            try:
                run(block, page, names)
            except MissingDependency as error:
                pytest.skip(str(error))


def test_comments_that_are_wrong_are_found() -> None:
    page, names = DOCS / "index.md", {"x": torch.zeros(2, 3)}
    right = ("x  # [2, 3]", "x  # [B, 3]: words", "x  # [2, ...]", "1 + 1  # 2, or so", "x  # is 0")
    for code in right:
        run(Block("python", "", code, 1), page, names)
    for wrong in ("x  # [3, 2]", "y = x.T  # [2, 3]", "1 + 1  # 3", "x  # [2, 3, ...,  4]"):
        with pytest.raises(AssertionError):
            run(Block("python", "", wrong, 1), page, names)


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_those_that_there_are(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for command in commands(read(named(page))):
        arguments = arguments_of(command)
        if arguments is not None and "..." not in arguments:
            try:
                _parser().parse_args(arguments)
            except SystemExit as stop:
                assert stop.code == 0, f"{' '.join(command)}: {capsys.readouterr().err}"
        for module in re.findall(r"-m (pyxai_fast[\w.]*)", " ".join(command)):
            assert importlib.util.find_spec(module), " ".join(command)
        if command[:1] == ["make"]:
            goals = [word for word in command[1:] if not word.startswith("-") and "=" not in word]
            assert set(goals) <= targets, " ".join(command)
        scripts = [word for word in command if re.fullmatch(r"[\w/.-]+/[\w.-]+\.(py|sh)", word)]
        for script in scripts:
            if "python" in command[0] or script == command[0]:
                assert (ROOT / script).is_file(), " ".join(command)


def test_commands_are_found() -> None:
    text = "```sh\na \\\n  b | pyxai-fast info  # c\n```\n\n    X=1 pyxai-fast demo && make x\n"
    assert list(commands(text)) == [
        ["a", "b"], ["pyxai-fast", "info"], ["X=1", "pyxai-fast", "demo"], ["make", "x"],
    ]  # fmt: skip
    assert arguments_of(["torchrun", "-m", "pyxai_fast", "run", "a"]) == ["run", "a"]
    assert arguments_of(["X=1", "pyxai-fast", "demo"]) == ["demo"]
    assert arguments_of(["make", "x"]) is None


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_what_is_there(page: Path) -> None:
    text = read(named(page))
    for link in links(text):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{named(page)}: {link}"
        assert target.is_file() or page == ROOT / "README.md", f"{named(page)}: {link} is a folder"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(read(named(target))), f"{named(page)}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the site's settings")
    listed: list[str] = []

    def walk(entry: Any) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        elif isinstance(entry, list):
            [walk(one) for one in entry]
        else:
            [walk(one) for one in entry.values()]

    walk(yaml.safe_load(read("mkdocs.yml"))["nav"])
    there = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted([*there, "CONTRIBUTING.md", "CHANGELOG.md"])


# --- what is said of the package -----------------------------------------------------------------


def sections(text: str) -> dict[str, str]:
    """What stands under each heading of the second level, by its first word in backticks."""
    parts = re.split(r"^## `(\w+)`\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


METHOD_PAGES = {
    name: text
    for page in sorted((DOCS / "methods").glob("*.md"))
    for name, text in sections(page.read_text(encoding="utf-8")).items()
}


def test_every_method_has_a_section_and_a_row() -> None:
    assert set(METHOD_PAGES) == {*METHODS, *COMBINATIONS}
    rows = re.findall(r"^\| \[`(\w+)`\]", read("docs/methods/index.md"), re.MULTILINE)
    assert sorted(rows) == sorted(METHOD_PAGES)


@pytest.mark.parametrize("method", METHOD_PAGES)
def test_options_of_a_method_have_the_defaults_that_are_told(method: str) -> None:
    options = re.compile(r"^- Options: (.+?)\.\n(?=-)", re.MULTILINE | re.DOTALL)
    (told,) = options.findall(METHOD_PAGES[method]) or [""]
    kind: Any = METHODS.get(method) or METHODS[COMBINATIONS[method].method]
    takes = {
        name: parameter.default
        for function in (kind.attribute, kind.__init__)  # whose own defaults count for a call
        for name, parameter in inspect.signature(function).parameters.items()
    }
    if method in COMBINATIONS:
        own = inspect.signature(COMBINATIONS[method].kind.__init__).parameters
        names = COMBINATIONS[method].own_options
        takes |= {name: own[argument].default for name, argument in names.items()}
    for option in re.findall(r"`([^`]+)`", told):
        name, _, value = option.partition("=")
        assert takes[name] == ast.literal_eval(value), f"{method}: {option}, not {takes[name]!r}"


def default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def test_evaluations_at_the_defaults_are_those_that_are_told() -> None:
    steps = default(IntegratedGradients.attribute, "n_steps")
    climb = GeometricallyGuidedIG.attribute
    known = {
        **dict.fromkeys(("saliency", "input_x_gradient"), 1),
        **dict.fromkeys(("integrated_gradients", "blur_ig"), steps),
        "smooth_grad": default(SmoothGrad.attribute, "n_samples"),
        "guided_ig": default(GuidedIG.attribute, "n_steps"),
        "expected_gradients": default(ExpectedGradients.attribute, "n_samples"),
        "diffusion_ig": default(DiffusionPaths, "n_paths") * steps,
        "geometrically_guided_ig": (default(climb, "n_steps") + 1) * default(climb, "n_ascent"),
        "stick_breaking_ig": default(StickBreaking, "n_paths") * steps,
        **dict.fromkeys(("lime", "rise", "kernel_shap"), PerturbationMethod.n_queries),
        **dict.fromkeys(("dax", "student_gradient"), default(DAX, "n_queries")),
        "freemcg": default(FreeMCG, "n_particles") * len(default(FreeMCG, "levels")) + 1,
        "Counterfactual": default(Counterfactual, "n_particles")
        * default(Counterfactual, "n_steps")
        + 2,
    }
    rows = re.findall(
        r"^\| (`.+) \| ([\d,]+) (?:gradients?|forwards)", read("docs/choose.md"), re.M
    )
    told = {name: int(n.replace(",", "")) for cell, n in rows for name in re.findall(r"\w+", cell)}
    assert told == known


def test_options_of_counterfactuals_have_the_defaults_that_are_told() -> None:
    text = read("docs/counterfactuals.md").partition("| option | default |")[2]
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", text, re.MULTILINE)
    told = {
        name: value
        for names, values in rows
        for name, value in zip(re.findall(r"\w+", names), values.split(", "), strict=True)
    }
    own = {name: p.default for name, p in inspect.signature(Counterfactual).parameters.items()}
    assert told.pop("step_size") == '0.05; 0.2 for "diagonal"'
    assert COUPLINGS == {"ensemble": 0.05, "diagonal": 0.2} and own["step_size"] is None
    assert len(told) >= 8
    for name, value in told.items():
        assert own[name] == ast.literal_eval(value), name


def test_every_metric_is_on_the_page_of_metrics() -> None:
    told = set(re.findall(r"`(\w+)`", read("docs/evaluation.md")))
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert functions - {"heat"} <= told  # which the others look at
    assert {name for name, metric in METRICS.items() if not metric.part} <= told


def directives() -> list[str]:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    return re.findall(r"^::: ([\w.]+)", text, re.MULTILINE)


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".methods",
        ".gradients",
        ".paths",
        ".priors",
        ".metrics",
        ".evaluation",
        ".known_evidence",
        ".ops",
        ".arrays",
    ],
)
def test_the_names_of_the_package_are_in_the_reference(module: str) -> None:
    if module == ".arrays" and not HAS_ARRAYS:
        pytest.skip("the NumPy module is not built, or switched off")
    home = importlib.import_module(f"pyxai_fast{module}")
    inside = [name for name in directives() if name.startswith(f"{home.__name__}.")]
    documented = {name.rpartition(".")[2] for name in inside} | {"build_info", "load_native"}
    names = {name for name in home.__all__ if callable(getattr(home, name))}
    assert names <= documented, sorted(names - documented)


def test_the_reference_names_what_there_is() -> None:
    for name in directives():
        module, _, attribute = name.rpartition(".")
        if name.startswith("pyxai_fast.arrays") and not HAS_ARRAYS:
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_messages_of_the_troubleshooting_page_are_those_of_the_package() -> None:
    told = re.findall(r"^\| `([^`]+)` \|", read("docs/troubleshooting.md"), re.MULTILINE)
    code = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "pyxai_fast").rglob("*.py"))
    )
    said = re.sub(r"\s+", " ", re.sub(r'["\']\s*\n\s*f?["\']', "", code))
    assert len(told) > 40
    for message in told:
        for words in message.split("..."):
            assert words.strip() in said, message


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", pyxai_fast.__version__]
