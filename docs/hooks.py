"""What building the site adds to MkDocs: pages from other folders, source code, the commands' help, formulas.

A page may hold `{{ source path/to/file.py }}`, `{{ source path/to/file.py::name }}` and `{{ commands }}`. Each is
replaced by what the code says when the site is built, so that no page goes stale; a name that does not exist stops it.
"""

import ast
import os
import re
from html import unescape
from pathlib import Path
from textwrap import indent

import latex2mathml.converter
import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from larscope._cli.commands import app

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "reproduction/*.md",
    "reproduction/*.png",
    "reproduction/full/*.png",
    "benchmarks/*.md",
    "benchmarks/*.png",
)


def on_config(config: MkDocsConfig) -> None:
    """Search from disk by a script of the site; the offline plugin would load one from another server."""
    config.extra["polyfills"] = ["search.js"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in pages that lie beside the code that writes them, with their pictures."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in source and commands; links between files of the repository become links between pages."""
    source_line = r"^( *)\{\{ source (\S+?)(?:::(\w+))? \}\}$"
    markdown = re.sub(source_line, lambda m: indent(source(m[2], m[3]), m[1]), markdown, flags=re.MULTILINE)
    if "{{ commands }}" in markdown:
        markdown = markdown.replace("{{ commands }}", commands())
    return re.sub(r"(?<=\]\()[^)#\s:]+", lambda m: link_on_site(m[0], page.file, files), markdown)


def source(path: str, name: str | None) -> str:
    """Return a file, or a function, class or constant of it, as a block of code that says where it is from."""
    code = (ROOT / path).read_text(encoding="utf-8")
    if name:
        code = named(code, name)
        if not code:
            raise PluginError(f"{path} has no {name!r}: correct the page that shows it.")
    return f'```python title="{path}"\n{code.strip()}\n```'


def named(text: str, name: str) -> str:
    """Return the lines of Python source that define a name, decorators included."""
    for node in ast.walk(ast.parse(text)):
        targets = [getattr(target, "id", None) for target in getattr(node, "targets", [getattr(node, "target", None)])]
        if name in (getattr(node, "name", None), *targets):
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return ""


def commands() -> str:
    """Return the help of every command as Markdown, one heading each."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="larscope")
    text = typer.cli.get_docs_for_click(obj=group, ctx=context, name="larscope")
    return text.removeprefix("# `larscope`\n")


def link_on_site(target: str, file: File, files: Files) -> str:
    """Return the link from a page to what lies at `target` beside its source, if that is on the site too."""
    wanted = (Path(file.abs_src_path).parent / target).resolve()
    for other in files:
        if other.abs_src_path and Path(other.abs_src_path).resolve() == wanted:
            return Path(os.path.relpath(other.src_uri, Path(file.src_uri).parent)).as_posix()
    return target


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw by themselves."""
    block = r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>'
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: formula(m[1], "inline"), html)
    return re.sub(block, lambda m: formula(m[1], "block"), html, flags=re.DOTALL)


def formula(tex: str, display: str) -> str:
    """Return a formula as MathML."""
    return latex2mathml.converter.convert(unescape(tex).strip(), display=display)
