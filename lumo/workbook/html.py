"""HTML: the one place that escapes, and notebooks as pages that load nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any
from urllib.parse import quote

# nbconvert's lab template loads require.js, MathJax, mermaid and the widget manager from the net; offline they are
# dead, and widgets need a kernel that a page doesn't have. Its dark colours are laid over the light ones where the reader's machine is dark
_TEMPLATE = """{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block notebook_css %}{{ super() }}
<style media="(prefers-color-scheme: dark)">
:root { color-scheme: dark }
{{ resources.include_css("static/theme-dark.css") | striptags }}
</style>
{% endblock %}
"""

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{margin-bottom:.2rem} h2{margin-top:2rem;font-size:1.15rem} a{color:#0b5cad}
table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ddd}
code,pre{background:#f4f4f4;padding:.1rem .3rem;overflow-x:auto}
.verdict{padding:.7rem 1rem;border-left:.4rem solid;font-size:1.1rem} .good{color:#14632d;border-color:#2a9d4e}
.bad{color:#9b1c1c;border-color:#d33} .bar{background:#7aa7d9;height:.7rem;min-width:2px}
.box{background:#f7f7f4;padding:.5rem 1rem} .box td:last-child{overflow-wrap:anywhere}
.wide{overflow-x:auto}
@media (prefers-color-scheme:dark){
body{color:#ddd;background:#1b1b1b} a{color:#7db8f0} th,td{border-color:#444} code,pre{background:#2a2a2a}
.good{color:#6fcf8b} .bad{color:#ff8a80} .box{background:#242424}}
"""


def text(value: Any) -> str:
    """Any value, safe between tags and inside quotes."""
    return escape(str(value), quote=True)


def link(target: str, label: Any) -> str:
    """target: a path from the page's own folder; a folder may be called `a#b`"""
    return f'<a href="{quote(target)}">{text(label)}</a>'


def table(head: Iterable[Any], rows: Iterable[Iterable[str]]) -> str:
    """head is escaped; the cells of rows are HTML already."""
    top = "".join(f'<th scope="col">{text(label)}</th>' for label in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    # a table that is wider than the screen scrolls by itself, and the page stays
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def document(title: str, body: str) -> str:
    """A whole page that needs no other file."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def page_of(notebook: str, title: str) -> str:
    """An executed notebook, as JSON text, in JupyterLab's look.

    Cells tagged `remove-cell`, and the code of cells tagged `remove-input` or `hide-input`, are left out.
    """
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = {"remove-cell"}
    config.TagRemovePreprocessor.remove_input_tags = {"remove-input", "hide-input"}
    config.NbConvertBase.display_data_priority = [
        "text/html",
        "text/markdown",
        "image/svg+xml",
        "image/png",
        "image/jpeg",
        "text/latex",
        "text/plain",
    ]
    exporter = HTMLExporter(
        config=config,
        template_name="lab",
        template_file="offline.html.j2",
        extra_loaders=[DictLoader({"offline.html.j2": _TEMPLATE})],
    )
    content = nbformat.reads(notebook, as_version=4)
    content.metadata.pop("widgets", None)
    page, _ = exporter.from_notebook_node(content, {"metadata": {"name": title}})
    return page
