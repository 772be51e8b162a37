"""Files for code hosts and hooks: they are readable and call the project's checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.paths import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_calls_the_script_that_people_call() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [".ci/run"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make check\n" in script
    assert "make coverage\n" in script


def test_hooks_run_the_tools_of_make_check() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].replace(".venv/bin/", "$(BIN)/").removesuffix(" --fix") for hook in repository["hooks"]]
    assert {"$(BIN)/ruff format", "$(BIN)/ruff check", "$(BIN)/mypy", "$(BIN)/codespell"} <= set(entries)
    assert [entry for entry in entries if entry not in MAKEFILE] == []


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem)
def test_a_form_of_issues_asks_for_something(form: Path) -> None:
    found = read(form)
    assert {"name", "description", "body"} <= set(found)
    asked = [field for field in found["body"] if field["type"] != "markdown"]
    assert any(field.get("validations", {}).get("required") for field in asked)
    assert len({field["id"] for field in asked}) == len(asked)
