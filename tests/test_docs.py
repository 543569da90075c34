"""What README.md and docs/ say can be done, can be done; what they show is there.

Every command is read by its parser. Blocks of commands are executed, with two steps of training and a tiny pair for the
article's. Capitals such as DIR stand for what a user has. A comment before a block keeps it from being run:
<!-- needs: hours -->, or <!-- test -->.
"""

import importlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ROOT, tiny_pair

import command
import models
from sources import faces
from tf1 import keras, tf
from training import settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


LISTING = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]  # what git has or would take
LISTED = subprocess.run(LISTING, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
FILES = {file for file in LISTED if (ROOT / file).is_file()}
pytestmark = pytest.mark.skipif(not FILES, reason="what is committed is known to git only")
ALL_PAGES = [ROOT / file for file in sorted(FILES) if file.endswith(".md")] + NOTEBOOKS


class Block(NamedTuple):
    page: str
    line: int
    marker: str  # of the comment before it, or ""
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def can_run(self):
        return not self.marker.startswith(("needs: ", "test"))


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^(?:<!-- (.+?) -->\n)?```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    name = page.relative_to(ROOT).as_posix()
    return [Block(name, text[: each.start()].count("\n") + 1, each[1] or "", each[2], each[3]) for each in found]


def prose(page):
    """A page without its blocks of code; a notebook's text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def inline(page):
    """Commands within the text. What begins with an option of data is one of dcgan_keras.py."""
    for words in re.findall(r"`((?:python |--dataset )[^`]+)`", prose(page)):
        words = words.split()
        if words[:2] != ["python", "-m"] or len(words) > 3:  # not only the name of a module
            yield words if words[0] == "python" else ["python", "dcgan_keras.py", *words]


def commands(text):
    """The words of each command of a piece of shell, without comments and assignments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;"):
                words.append(word)
                continue
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def program(words):
    """The module of the project that a command runs, or None, and its arguments."""
    python = re.fullmatch(r"(\S*/bin/)?python3?", words[0])
    if python and words[1].endswith(".py"):
        return words[1].removesuffix(".py"), words[2:]
    if python and words[1:2] == ["-m"] and words[2].startswith("reproduce."):
        return words[2], words[3:]
    return None, words


class Parsed(Exception):
    """The arguments were understood."""


def check(words, monkeypatch):
    """A command is understood, and what it reads is there."""
    module, arguments = program(words)
    if module == "dcgan_keras":
        settings.parse(arguments)
    elif module:
        parse = command.Parser.parse_args

        def stop(self, *given):
            parse(self, *given)
            raise Parsed

        with monkeypatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(command.Parser, "parse_args", stop)
            importlib.import_module(module).main(arguments)
    for option, word in zip(["", *words], words, strict=False):
        if re.fullmatch(r"samples/[^/*]+\.\w+|\S*requirements\.txt|[a-z]\S*\.py", word) and option != "--out":
            assert word in FILES, f"{word} is not committed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood_and_reads_what_is_committed(page, monkeypatch):
    in_blocks = [words for block in blocks(page) if block.language == "bash" for words in commands(block.text)]
    for words in [*in_blocks, *inline(page)]:
        try:
            check(words, monkeypatch)
        except SystemExit:
            pytest.fail(f"the arguments are refused: {shlex.join(words)}")


@pytest.fixture
def stand_in(drawn, tmp_path, monkeypatch):
    """Gives the weights that FILE stands for, with classes where they are needed. Copies files that are committed."""
    monkeypatch.setattr(faces, "load", drawn)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def of(word, arguments):
        if word == "FILE" and "classes" in arguments:
            word = str(tmp_path / "acgan28.h5")
            with tf.Graph().as_default(), tf.Session() as sess:
                keras.backend.set_session(sess)
                generator = models.MODELS["acgan28"].generator(10)
                sess.run(tf.global_variables_initializer())
                generator.save_weights(word)
        elif word == "FILE":
            word = str(ROOT / "samples" / "cifar10_generator.h5")
        elif word in FILES:
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / word, tmp_path / word)
        return word

    return of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_that_needs_nothing_more_runs(page, run_here, stand_in, monkeypatch):
    for block in (each for each in blocks(page) if each.language == "bash" and each.can_run):
        for words in commands(block.text):
            module, arguments = program(words)
            if not module:  # what makes the environment, which the tests have
                assert "venv" in words or "pip" in words[0], (
                    f"{block}: mark it <!-- needs: ... -->: {shlex.join(words)}"
                )
                continue
            arguments = [stand_in(word, arguments) for word in arguments]
            with monkeypatch.context() as patch:
                if module == "dcgan_keras":
                    arguments += ["--steps", "2", "--batch-size", "4"]
                    patch.setitem(models.MODELS, "article", models.MODELS["article"]._replace(**tiny_pair()))
                result = run_here(importlib.import_module(module).main, *arguments)
            assert result.returncode == 0, f"{block}: {shlex.join(words)}: {result.stderr}"


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python" and block.can_run]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_program_trains_and_saves_what_it_trained(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = []
    for text in (block.text, block.text.replace("range(100)", "range(1)")):
        with tf.Graph().as_default():
            exec(compile(text, str(block), "exec"), names := {})
        assert np.isfinite([names["dloss"], names["gloss"]]).all()
        saved.append(Path("generator.h5").read_bytes())
    assert saved[0] != saved[1]


def links(page):
    """What a page links to or shows, without what is on other sites: (path, anchor)."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    folders = {parent.as_posix() for file in FILES for parent in Path(file).parents}
    for target, anchor in links(page):
        name = target.relative_to(ROOT).as_posix()
        assert name in FILES | folders, f"{page.name} links to {name}, which is not committed"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {name}#{anchor}, which is no heading"


def test_every_committed_picture_is_shown_and_every_page_is_reached():
    shown = {target.relative_to(ROOT).as_posix() for page in ALL_PAGES for target, _ in links(page)}
    suffixes = {".png", ".gif", ".svg", ".jpg"}
    pictures = {file for file in FILES if file.startswith(("samples/", "docs/")) and Path(file).suffix in suffixes}
    assert pictures and not pictures - shown
    reached = {target for target, _ in links(ROOT / "README.md")}
    assert not {page.name for page in [*PAGES[1:], *NOTEBOOKS] if page not in reached}


def test_the_tables_of_losses_are_those_that_the_figures_make():
    page = (ROOT / "docs" / "figure.md").read_text(encoding="utf-8")
    for table in ("console.md", "last_console.md"):
        assert (ROOT / "samples" / table).read_text(encoding="utf-8") in page
