"""The documentation says what the code does."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.needs import needs_program

from labeling_ground import __version__
from labeling_ground.api.app import create_app
from labeling_ground.cli import cli
from labeling_ground.settings import ENV_PREFIX, Settings
from labeling_ground.settings.reference import as_markdown
from labeling_ground.wiring import build_parts

ROOT = Path(__file__).parent.parent


def test_the_settings_page_is_what_make_docs_writes() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == as_markdown()


def test_every_setting_has_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert len(field.description or "") > 15, name


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_a_readme_names_only_settings_commands_and_paths_that_exist(readme: str, tmp_path: Path) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    for name in re.findall(rf"{ENV_PREFIX}([A-Z_]+)", text):
        assert name.lower() in Settings.model_fields
    for command in re.findall(r"labeling-ground (\w+)", text):
        assert command in cli.commands
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    parts = build_parts(Settings(cache_dir=tmp_path, disk_bytes=0))
    paths = create_app(parts).openapi()["paths"]
    paths["/cache"] = {"get": {}}  # a page; tests/api/test_api_pages.py gets it
    for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[\w/{}.]+)", text):
        known = paths.get(path.replace("{id}", "{image_id}"), {})
        assert method.lower() in known, (method, path)


def test_no_advice_takes_our_name_from_an_index() -> None:
    """Nobody owns the name there: advice must work from a checkout."""
    said = [
        *(ROOT / "src").rglob("*.py"),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docker").iterdir(),
    ]
    for file in said:
        assert not re.search(r"pip install [^\n]*(?<![./-])labeling-ground\b(?!/)", file.read_text(encoding="utf-8")), (
            file
        )


def test_make_run_installs_all_that_the_readmes_commands_and_snippet_need() -> None:
    make = needs_program("make")
    said = subprocess.run([make, "-nB", "run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"pip .*install .*-e \.( |$)", said, re.MULTILINE)
    assert re.search(r"pip .*install .*-e clients/python", said)
    assert "import Client" in (ROOT / "README.md").read_text(encoding="utf-8")
    pinned = "".join((ROOT / "requirements" / name).read_text() for name in re.findall(r"-r requirements/(\S+)", said))
    for project in (ROOT, ROOT / "clients" / "python"):
        wanted = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        for name in (re.split(r"[^\w-]", one)[0] for one in wanted):
            assert re.search(rf"^{name}==", pinned, re.MULTILINE | re.IGNORECASE), name


def test_both_readmes_have_the_same_shape() -> None:
    def shape(name: str) -> list[str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        return [line.split(" ")[0] for line in lines if line.startswith(("#", "```"))]

    assert shape("README.md") == shape("README.ko.md")


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_a_readme_is_short(readme: str) -> None:
    """What a newcomer reads in one go; theory and figures have pages of their own."""
    assert len((ROOT / readme).read_text(encoding="utf-8").splitlines()) <= 120


def test_both_readmes_hold_the_same_figures() -> None:
    def figures(name: str) -> list[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [number for row in rows for number in re.findall(r"\d+(?:\.\d+)?", row)]

    assert figures("README.md") == figures("README.ko.md")


def test_the_changelog_and_the_package_agree_on_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert (released[0] if released else "0.1.0") == __version__
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_pins_hold_hashes_and_no_addresses() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        text = file.read_text(encoding="utf-8")
        assert "://" not in text
        for requirement in re.split(r"\n(?=[a-z])", text):
            if "==" in requirement:
                assert "--hash=sha256:" in requirement, requirement[:60]
