# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Documents and docstrings say what is true: their examples run, what they name exists, the README stays short."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import config_page
import isdfine
from builders import write_micro_config
from isdfine.commands import COMMANDS
from isdfine.commands import main as command_line
from isdfine.core.config.shipped import find_config

ROOT = Path(__file__).parent.parent


def modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(isdfine.__path__, "isdfine.")]


def test_every_module_imports_by_name_and_its_examples_hold() -> None:
    assert len(modules()) > 50
    failed = sum(doctest.testmod(importlib.import_module(name)).failed for name in modules())
    assert failed == 0


def test_the_python_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_micro_config(tmp_path).rename("mine.yml")
    Image.new("RGB", (80, 60)).save("photo.jpg")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^\w", block, flags=re.MULTILINE)) == 5  # lines
    exec(compile(block, "README.md", "exec"), {})  # our own text
    assert Path("runs/python/best.pth").is_file()
    with Image.open("found.jpg") as found:
        assert found.size == (80, 60)


def test_the_config_of_the_readme_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(block.splitlines()) <= 12
    Path("mine.yml").write_text(block)
    isdfine.load_config("mine.yml")


INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install --use-pep517 -e "
FIRST = (
    f"{INSTALL}. && \\\n  python tools/train.py -c configs/quickstart.yml\n",
    f'{INSTALL}".[dev]" && \\\n  python -m pytest\n',
)


def test_the_readme_is_one_that_people_read_to_the_end() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    assert [line for line in text.splitlines() if len(line) > 120] == []
    assert all(command in text for command in FIRST)  # as newcomers and CI run them


def test_the_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:configs|tests|tools|src|data|LICENSES)/[\w./-]*)`", text))
    named |= set(re.findall(r"\]\(((?:src|docs)/[\w./-]+)\)", text))
    ours = {name for name in named if not name.startswith(("data/coco", "data/bccd"))}  # what users put there
    assert len(ours) > 8
    assert [name for name in sorted(ours) if not (ROOT / name).exists()] == []


def test_every_dependency_has_its_reason() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if "#" not in line and not line.startswith("types-")] == []


def test_ci_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
METHOD = ROOT / "docs" / "method.md"
CODE = ("src", "tests", "tools", "configs", "docs")


def test_the_index_leads_to_every_document() -> None:
    index = ROOT / "docs" / "index.md"
    links = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert [str(page.relative_to(ROOT)) for page in DOCUMENTS if page != index and page not in links] == []


def test_files_and_links_of_the_documents_exist() -> None:
    missing = []
    for page in DOCUMENTS:
        text = page.read_text()
        links = [page.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)", text)]
        files = re.findall(r"(?<![\w/.-])((?:configs|docs|src|tests|tools)/[\w./-]+\.(?:md|py|yml))\b", text)
        missing += [(page.name, str(path)) for path in (*links, *(ROOT / name for name in files)) if not path.exists()]
    theirs = {"get_info.py", "trt_benchmark.py"}  # of the official code
    assert [(page, path) for page, path in missing if Path(path).name not in theirs] == []


def test_links_lead_to_headings_that_exist() -> None:
    wrong = []
    for page in (ROOT / "README.md", *DOCUMENTS):
        for name, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#([^)]+)\)", page.read_text()):
            target = page.parent / name if name else page
            if target.suffix == ".md" and target != METHOD:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
                wrong += [(page.name, name, anchor)] * (anchor not in map(slug, headings))
    assert wrong == []


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_options_that_the_documents_name_exist() -> None:
    sources = "".join(path.read_text() for folder in ("src", "tools") for path in (ROOT / folder).rglob("*.py"))
    ours = set(re.findall(r"[\"'](--[a-z][\w-]+)[\"']", sources))
    named = {
        (page.name, option)
        for page in (ROOT / "README.md", *DOCUMENTS)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", page.read_text())
    }
    # of torchrun, TensorBoard, trtexec and pip
    foreign = {"--nproc_per_node", "--logdir", "--stronglyTyped", "--use-pep517", "--index-url", "--no-deps"}
    assert len(named) > 50
    assert sorted((page, option) for page, option in named if option not in ours | foreign) == []


def shell_commands(page: Path) -> list[list[str]]:
    """The words after ``isdfine`` of every command in the code blocks of a page."""
    text = page.read_text().replace("\\\n", " ").replace("$seed", "0")
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"^    (isdfine .*)$", text, re.MULTILINE
    )
    found = [re.match(r"\s*(?:torchrun .* -m )?isdfine (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCUMENTS], ids=lambda page: page.name)
def test_commands_in_the_documents_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, *arguments in shell_commands(page):
        if name.startswith("-"):
            continue
        module = importlib.import_module(f"isdfine.commands.{COMMANDS[name].module}")
        options = vars(module.parse_arguments([*COMMANDS[name].leading, *arguments]))  # SystemExit where it is wrong
        for config in [options["config"]] if isinstance(options.get("config"), str) else []:
            readers = config.startswith(("mine", "run.", "config.", "output/", "runs/")) or "$" in config
            assert readers or find_config(config).is_file(), config


def test_every_command_is_in_the_documents() -> None:
    text = "".join(page.read_text() for page in (ROOT / "README.md", *DOCUMENTS))
    assert {name for name in COMMANDS if f"isdfine {name}" not in text} == set()
    assert set(re.findall(r"`isdfine ([a-z]+)", text)) <= set(COMMANDS)


def test_the_page_of_config_keys_is_what_the_code_says() -> None:
    kept = (ROOT / "docs" / "config.md").read_text()
    assert kept == config_page.page(), "out of date: python tools/config_page.py > docs/config.md"


def anchors() -> set[str]:
    """Numbers of the sections of docs/method.md, each of which has an anchor of that name."""
    headings = re.findall(r"^#+ (.*)$", METHOD.read_text(), flags=re.MULTILINE)[1:]
    sections = [re.fullmatch(r'<a id="([\d.]+)"></a>([\d.]+?)\.? .*', heading) for heading in headings]
    assert all(section is not None and section[1] == section[2] for section in sections), headings
    return {section[1] for section in sections if section is not None}


def test_links_inside_the_method_page_lead_somewhere() -> None:
    links = re.findall(r"\]\(#([^)]*)\)", METHOD.read_text())
    assert len(links) > 20
    assert sorted(set(links) - anchors()) == []


def code_texts() -> dict[str, str]:
    """Every text file of the project that may refer to the method, with line breaks of comments closed."""
    paths = [path for folder in CODE for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yml", ".md")]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths if "golden" not in path.parts}
    return {name: re.sub(r"\n[ #]*", " ", text) for name, text in texts.items()}


def test_sections_of_the_method_that_the_code_names_exist() -> None:
    references = [
        (name, section)
        for name, text in code_texts().items()
        for section in re.findall(r"docs/method\.md[ #](\d+(?:\.\d+)?)", text)
    ]
    assert len(references) > 50
    assert [(name, section) for name, section in references if section not in anchors()] == []


def test_nothing_refers_to_a_page_that_readers_do_not_have() -> None:
    private = (
        r"\b[Ss]pec(?:ification)?[ /](?:dfine|self_distillation|detr_family|doc_layout|teacher_student|section|\d)"
    )
    assert {name for name, text in code_texts().items() if re.search(private, text)} == set()


def test_every_option_of_the_tools_says_what_it_is() -> None:
    calls = [
        (path.relative_to(ROOT), node)
        for folder in ("src", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        if not any(keyword.arg is None for keyword in node.keywords)  # from a table, whose entries have their texts
    ]
    assert len(calls) > 50
    silent = [(str(path), call.lineno) for path, call in calls if not any(k.arg == "help" for k in call.keywords)]
    assert silent == []


def test_help_calls_every_command_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("OMP_WAIT_POLICY", "KINETO_LOG_LEVEL"):  # which commands set for their process
        monkeypatch.setenv(variable, "0")
    for name in COMMANDS:
        monkeypatch.setattr("sys.argv", ["isdfine", name, "-h"])
        with pytest.raises(SystemExit):
            command_line()
        assert capsys.readouterr().out.startswith(f"usage: isdfine {name} ["), name
