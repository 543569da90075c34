"""What README.md and the pages of docs/ say can be done, can be done; what they show is there.

Every block of commands is executed, top to bottom, in a folder of its page: training is cut to two steps, and drawn
shapes stand in for CIFAR-10 and MNIST, because a test has no network. Names in capitals stand for what a user has. A
comment before a block changes that:

    <!-- needs: four GPUs -->       it needs more than a test has; its commands are still parsed
    <!-- test --> or <!-- long -->  it runs these tests

All commands, also those within a line of text, are given to the real parsers. The files that they read are committed.
"""

import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import command
import data
import models
from tf1 import keras, tf

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
NOT_RUN = ("test", "long")
PICTURES = {".png", ".gif", ".svg", ".jpg"}


def committed():
    """The project's files, relative to it: what git has or would take; without git, all but the folders of runs."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return {line for line in done.stdout.splitlines() if (ROOT / line).is_file()}
    return {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}


FILES = committed()
FOLDERS = {parent.as_posix() for file in FILES for parent in Path(file).parents}


# Reading the pages.


class Block(NamedTuple):
    page: str
    line: int
    marker: str  # of the comment before it, or ""
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def prose(text):
    """A page without its blocks of code, with the same lines."""
    return re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^(?:<!-- (.+?) -->\n)?```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    name = page.relative_to(ROOT).as_posix()
    return [Block(name, text[: each.start()].count("\n") + 1, each[1] or "", each[2], each[3]) for each in found]


def inline(page):
    """Commands within the text: (page:line, command)."""
    text = prose(page.read_text(encoding="utf-8"))
    for each in re.finditer(r"`((?:python |--dataset )[^`]+)`", text):
        words = each[1].replace("\n", " ")
        where = f"{page.relative_to(ROOT).as_posix()}:{text[: each.start()].count(chr(10)) + 1}"
        if words.split()[:2] == ["python", "-m"] and len(words.split()) == 3:
            continue  # the name of a module
        yield where, words if words.startswith("python") else f"python dcgan_keras.py {words}"


def commands(text):
    """The words of each command of a piece of shell: without comments, assignments and what joins commands."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                while words and re.match(r"\w+=", words[0]):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def program(words):
    """The module whose `main` a command runs, and its arguments; (None, ...) if it is not one of the project's."""
    name = re.sub(r"^\S*/bin/", "", words[0])
    if re.fullmatch(r"python3?", name):
        if words[1].endswith(".py"):
            return words[1].removesuffix(".py").replace("/", "."), words[2:]
        if words[1] == "-m" and words[2].startswith("reproduce."):
            return words[2], words[3:]
        if words[1] == "-m":
            return None, words[2:]
    return None, [name, *words[1:]]


# What the commands are.


class Parsed(Exception):
    """The command's arguments were understood."""


def parses(module, arguments, monkeypatch):
    parse = command.Parser.parse_args

    def stop(self, given=None, namespace=None):
        parse(self, given, namespace)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(command.Parser, "parse_args", stop)
        try:
            importlib.import_module(module).main(arguments)
        except Parsed:
            return True
        except SystemExit as leaving:
            return leaving.code in (0, None)  # --help
        except command.InputError as error:
            print(error)
    return False


READ = re.compile(r"samples/[^/*]+\.\w+|requirements[\w-]*\.txt|(?:examples|docs|tests)/\S+|[\w/]+\.py")
WRITING = ("--out", "--json", "--summary")


def check(where, words, monkeypatch):
    """A command is understood, and what it reads is there."""
    module, arguments = program(words)
    if module:
        assert f"{module.replace('.', '/')}.py" in FILES, f"{where}: there is no {module}"
        assert parses(module, arguments, monkeypatch), f"{where}: the arguments are refused: {shlex.join(words)}"
    for before, word in itertools.pairwise(words):
        if READ.fullmatch(word) and before not in WRITING:
            assert word in FILES, f"{where}: {word} is not committed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood_and_reads_what_is_committed(page, monkeypatch):
    checked = 0
    for block in blocks(page):
        if block.language == "bash":
            for words in commands(block.text):
                check(block, words, monkeypatch)
                checked += 1
    for where, line in inline(page):
        for words in commands(line):
            check(where, words, monkeypatch)
            checked += 1
    assert checked or page.name != "README.md"


# Executing them.


def shortened(arguments):
    """A training command of two steps with a small batch."""
    kept = list(arguments)
    for option in ("--steps", "--epochs", "--batch-size"):
        while option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return [*kept, "--steps", "2", "--batch-size", "4"]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """What names in capitals stand for: a folder of pictures in classes, and weights."""
    load = data.load

    def drawn(name, *arguments, data_dir=None, **options):
        if name not in ("cifar10", "mnist"):
            return load(name, *arguments, data_dir=data_dir, **options)
        return load("faces", *arguments, **options)._replace(name=name)

    monkeypatch.setattr(data, "load", drawn)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    for k, image in enumerate(load("faces", (32, 32, 3)).images[:16]):
        path = folder / f"class {k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        with_classes = models.MODELS["acgan28"].generator(10)
        sess.run(tf.global_variables_initializer())
        with_classes.save_weights(tmp_path / "with_classes.h5")
    keras.backend.clear_session()

    def filled(word, arguments):
        if word == "FILE":
            return str(tmp_path / "with_classes.h5" if "classes" in arguments else "samples/cifar10_generator.h5")
        return str(folder) if re.fullmatch("DIR|FOLDER|PICTURES", word.split("/")[0]) else word

    return filled


def execute(block, words, run_here, filled):
    """Run one command of a block in the folder of its page."""
    module, arguments = program(words)
    if module:
        arguments = [each for word in arguments for each in (sorted(glob(word)) or [filled(word, arguments)])]
        if module == "dcgan_keras" and not {"--summary", "--help"} & set(arguments):
            arguments = shortened(arguments)
        result = run_here(importlib.import_module(module).main, *arguments)
        assert result.returncode == 0, f"{block}: {shlex.join(words)}: {result.stderr}"
    else:  # what makes the environment, which the tests have
        known = arguments[0] in ("pip", "venv", "export")
        assert known, f"{block}: mark it <!-- needs: ... --> if a test cannot run it: {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_that_needs_nothing_more_runs(page, run_here, stand_ins, tmp_path):
    for file in FILES:
        if file.startswith("samples/"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / file)
    for block in blocks(page):
        if block.language == "bash" and block.marker not in NOT_RUN and not block.marker.startswith("needs: "):
            for words in commands(block.text):
                execute(block, words, run_here, stand_ins)


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_program_runs(block, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    program = compile(block.text, str(block), "exec")
    if not block.marker.startswith("needs: "):
        names = {}
        with tf.Graph().as_default():
            exec(program, names)
        assert capfd.readouterr().err == ""
        assert np.isfinite([names.get("dloss", 0), names.get("gloss", 0)]).all()


# Links and pictures.


def links(page):
    """What a page links to or shows, without what is on other sites: (target, #anchor)."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for target in map("".join, re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', prose(text))):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


ALL_PAGES = [ROOT / file for file in sorted(FILES) if file.endswith(".md")] + NOTEBOOKS


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target, anchor in links(page):
        name = target.relative_to(ROOT).as_posix()
        assert name in FILES | FOLDERS, f"{page.name} links to {name}, which is not committed"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {name}#{anchor}, which is no heading"


def test_the_tables_of_losses_are_those_that_the_figures_make():
    page = (ROOT / "docs" / "figure.md").read_text(encoding="utf-8")
    for table in ("console.md", "last_console.md"):
        assert (ROOT / "samples" / table).read_text(encoding="utf-8") in page


def test_every_committed_picture_is_shown_and_every_page_is_reached():
    shown = {target.relative_to(ROOT).as_posix() for page in ALL_PAGES for target, _ in links(page)}
    for notebook in NOTEBOOKS:  # their code shows pictures by path
        shown |= set(re.findall(r"samples/\w+\.\w+", notebook.read_text(encoding="utf-8")))
    pictures = {file for file in FILES if file.startswith("samples/") and Path(file).suffix in PICTURES}
    assert pictures
    shown_nowhere = sorted(pictures - shown)
    assert not shown_nowhere
    reached = {target for target, _ in links(ROOT / "README.md")}
    assert not {page.name for page in [*PAGES[1:], *NOTEBOOKS] if page not in reached}
