"""The documentation site: it builds without a warning, asks no other server for anything, and is searched from disk."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_built(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in site.glob("*.html")}


def test_what_a_page_takes_from_the_code_is_there(site):
    assert "def open_npy" in re.sub("<[^>]+>", "", (site / "extend.html").read_text(encoding="utf-8"))
    assert "--learning-rate" in (site / "commands.html").read_text(encoding="utf-8")
    pages = [page.read_text(encoding="utf-8") for page in site.rglob("*.html")]
    assert any("<math" in page for page in pages)
    assert not [page for page in pages if "{{ " in re.sub(r"<(pre|code).*?</\1>", "", page, flags=re.DOTALL)]


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    assert [(page.name, url) for page in site.rglob("*.html") for url in loads.findall(page.read_text("utf-8"))] == []
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert not [style for style in styles if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style)]


@pytest.mark.parametrize("page", ["index.html", "statistics.html", "gallery.html"])
@pytest.mark.parametrize("width", [1280, 390])
def test_opens_from_disk_without_a_complaint(visit, site, page, width):
    browser = visit((site / page).as_uri(), width=width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_search_works_from_disk(visit, site):
    browser = visit((site / "index.html").as_uri(), width=1280)
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("exchangeable")
    found = WebDriverWait(browser, 10).until(
        lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
    )
    assert any("statistics.html" in link.get_attribute("href") for link in found)
