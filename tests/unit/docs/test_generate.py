"""Generated parts of the documentation are complete, or refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from docs.generate import GENERATORS, fill
from docs.generate.commands import OPTIONS
from docs.generate.descriptions import constants_of, fields_of, type_text
from docs.generate.include import root_file
from docs.generate.markdown import prose, table
from docs.generate.state_diagrams import DIAGRAMS
from p2pfl.cli import COMMANDS
from p2pfl.cli.arguments import option_names
from p2pfl.config import SECTIONS
from p2pfl.errors import Refusal
from p2pfl.registry import TABLES


@dataclasses.dataclass
class Silent:
    told: int = 1
    """Described."""
    untold: int = 2


class SilentStruct(msgspec.Struct):
    untold: int


def test_a_field_without_a_description_is_refused() -> None:
    with pytest.raises(KeyError, match=r"Silent\.untold has no description"):
        fields_of(Silent)
    with pytest.raises(KeyError, match=r"SilentStruct\.untold has no description"):
        fields_of(SilentStruct)


def test_an_option_without_a_description_fails_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "report", Silent)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"Silent\.untold has no description"):
        fill("<!-- generate: commands -->")


def test_a_command_without_documented_options_fails_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "new", ("new:new", "does something"))
    with pytest.raises(KeyError, match="new: no command"):
        fill("<!-- generate: commands -->")


def test_a_file_name_without_a_description_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "names.py"
    module.write_text('# In the run directory.\nA_FILE = "a.txt"\n"""Told."""\nB_FILE = "b.txt"\n')
    with pytest.raises(KeyError, match="B_FILE has no description"):
        constants_of(module)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ("<!-- generate: nothing -->", "nothing is generated under the name 'nothing'"),
        ("<!-- generate:commands -->", "not understood"),
        ("text <!-- generate: commands -->", "not understood"),
        ("<!-- generate: registry unknown -->", "there is no registry unknown"),
        ("<!-- generate: state-diagram unknown -->", "there is no state diagram unknown"),
        ("<!-- generate: include no-such-file.md -->", "no such file"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(request_: str, problem: str) -> None:
    with pytest.raises((KeyError, ValueError), match=re.escape(problem)):
        fill(request_)


def test_other_text_of_a_page_stays() -> None:
    page = "# Title\n\ntext\n\n<!-- generate: fault-points -->\n\nmore <!-- a comment -->\n"
    filled = fill(page)
    assert filled.startswith("# Title\n\ntext\n\n| at | point |\n")
    assert filled.endswith("\n\nmore <!-- a comment -->\n")


def test_every_option_of_every_command_is_on_the_page() -> None:
    page = GENERATORS["commands"]()
    parts = dict(re.findall(r"^## p2pfl (.+?)\n(.*?)(?=^## )", page, re.DOTALL | re.MULTILINE))
    assert list(parts) == list(COMMANDS)
    shared = page.partition("## Shared options")[2]
    for command, kind in OPTIONS.items():
        names = [name if len(name) > 3 else name[1:] for name in option_names(kind)]  # -n is shown, not --n
        missing = [name for name in names if f"`{name}`" not in parts[command] + shared]
        assert missing == [], command


def test_every_key_of_every_section_is_on_the_page() -> None:
    page = GENERATORS["configuration"]()
    for name, kind in SECTIONS.items():
        section = page.partition(f"## [{name}]\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [item.name for item in dataclasses.fields(kind)]


def test_every_refusal_is_on_the_page() -> None:
    page = GENERATORS["message-refusals"]()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [str(code) for code in Refusal]


@pytest.mark.parametrize("option", TABLES)
def test_every_name_of_a_registry_is_in_its_table(option: str) -> None:
    shown = GENERATORS["registry"](option)
    assert [name for name in TABLES[option] if not re.search(rf"^\| `{name}[`:]", shown, re.MULTILINE)] == []


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_has_every_state_and_every_transition(name: str) -> None:
    drawing, transitions = GENERATORS["state-diagram"](name), DIAGRAMS[name]
    states = re.findall(r'<text class="state"[^>]*>([^<]+)<', drawing)
    assert states == [str(state) for state in transitions.table]
    reasons = re.findall(r'<text(?: class="left")? x=[^>]*>([^<]+)<', drawing)
    assert sorted(reasons) == sorted(reason for new in transitions.table.values() for reason in new.values())
    assert drawing.count("<circle") == len(transitions.initial)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int | None, "integer or null"),
        (Literal["a", "b"], "`a`, `b`"),
        (dict[str, Annotated[int, msgspec.Meta(ge=0)]], "table of integers"),
        (list[list[str]], "list of lists of strings"),
        (tuple[str, str], "pair of strings"),
        (Annotated[float, msgspec.Meta(gt=0, le=1)], "number, above 0, at most 1"),
    ],
)
def test_types_have_words(hint: Any, text: str) -> None:
    assert type_text(hint, bounds=True) == text


def test_texts_of_docstrings_are_escaped() -> None:
    assert prose("a_b *c* | `d_e|` --lr <f>") == r"a\_b \*c\* \| `d_e|` `--lr` \<f>"
    assert table(("a",), [("x\ny",)]) == "| a |\n| --- |\n| x y |"


def test_links_of_root_files_lead_to_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.generate.include.ROOT", tmp_path)
    (tmp_path / "A.md").write_text(
        "[a](docs/how-to/resume.md#b) [c](SECURITY.md) [d](LICENSE) [e](#f) [g](https://zeromq.org/)"
    )
    assert root_file("A.md") == "[a](how-to/resume.md#b) [c](security.md) d [e](#f) [g](https://zeromq.org/)"
