"""Pages of the documentation: their blocks of code, commands, links and anchors."""

from __future__ import annotations

import ast
import io
import re
import shlex
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
# A block that says so is compiled, and not run: ```python title="needs the hub"
NEEDS = re.compile(r'title="needs [^"]+"')
FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(https?:[^>\s]+)>")
HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language, info: the first word behind the fence, and the rest.
        line: of its first line of code, in the page.
    """

    language: str
    info: str
    code: str
    line: int

    @property
    def is_run(self) -> bool:
        return NEEDS.search(self.info) is None


def pages() -> list[Path]:
    """Every page of the documentation, those in the root included."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [page for page in named if page.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        language, _, info = match[3].strip().partition(" ")
        line = text.count("\n", 0, match.start(4)) + 1
        found.append(Block(language, info, textwrap.dedent(match[4]), line))
    return found


def prose(text: str) -> str:
    """A page without its code."""
    without = FENCE.sub("", text)
    indented = re.sub(r"^(?: {4}|\t).*$", "", without, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", indented)


# --- Python --------------------------------------------------------------------------------------


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Runs a block, statement by statement, and holds its comments to what they say.

    ``x   # [2, 3]`` is the shape of a tensor (letters stand for any size, `...` for any number of
    them); ``x   # 7`` its value, if the comment begins as the value is written. Other comments are
    words.
    """
    name = page.relative_to(ROOT).as_posix()
    code = "\n" * (block.line - 1) + block.code  # lines in a traceback are those of the page
    tree = ast.parse(code, filename=name)
    comments = _comments(code)
    for node in tree.body:
        value = None
        if isinstance(node, ast.Expr):
            value = eval(compile(ast.Expression(node.value), name, "eval"), names)
        else:
            exec(compile(ast.Module([node], []), name, "exec"), names)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = names[node.targets[0].id]
        said = comments.get(node.end_lineno or 0)
        if said is not None and isinstance(node, (ast.Expr, ast.Assign)):
            _hold(said, value, f"{name}:{node.lineno}", shapes_only=isinstance(node, ast.Assign))


def _comments(code: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _hold(said: str, value: Any, where: str, shapes_only: bool) -> None:
    shape = re.match(r"\[([^\]]*)\]", said)
    if isinstance(value, Tensor) or hasattr(value, "shape"):
        if shape is not None:
            sizes = [size.strip() for size in shape[1].split(",") if size.strip()]
            assert _fits(sizes, list(value.shape)), f"{where}: {said!r}, and it is {value.shape}"
    elif not shapes_only and re.match(r"[\d\[('\"-]|True|False|None", said):
        assert said.startswith(repr(value)), f"{where}: {said!r}, and it is {value!r}"


def _fits(sizes: list[str], shape: list[int]) -> bool:
    if "..." in sizes:
        first = sizes.index("...")
        last = len(sizes) - first - 1
        if len(shape) < first + last:
            return False
        ends = [*shape[:first], *shape[len(shape) - last :]] if last else shape[:first]
        sizes, shape = [size for size in sizes if size != "..."], ends
    return len(sizes) == len(shape) and all(
        not said.isdecimal() or int(said) == size for said, size in zip(sizes, shape, strict=True)
    )


# --- commands ------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Command lines of shell blocks, and of indented ones, word by word: up to the first pipe or
    the like."""
    shell = [block.code for block in blocks(text) if block.language in ("sh", "bash", "console")]
    fenced = FENCE.sub("", text)
    shell += re.findall(r"(?:^ {4,}(?!- |\* ).*\n)+", fenced, re.MULTILINE)
    for code in shell:
        for line in code.replace("\\\n", " ").splitlines():
            yield from _words(line)


def _words(line: str) -> Iterator[list[str]]:
    try:
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
    except ValueError:  # no shell
        return
    command: list[str] = []
    for word in words:
        if set(word) <= set("|&;<>"):
            yield command
            command = []
        else:
            command.append(word)
    yield command


def arguments_of(command: list[str]) -> list[str] | None:
    """What a command gives to pyxai-fast; None where it is another."""
    words = command
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["pyxai-fast"]:
        return words[1:]
    for first in range(len(words) - 1):
        if words[first : first + 2] == ["-m", "pyxai_fast"]:
            return words[first + 2 :]
    return None


# --- links ---------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    return [match[1] or match[2] for match in LINK.finditer(prose(text))]


def anchors(text: str) -> set[str]:
    """Of headings, as Python-Markdown and GitHub make them."""
    found: set[str] = set()
    for _, title in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\s-]", "", plain).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", slug))
    return found
