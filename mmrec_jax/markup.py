"""Parts of a page in HTML: text made harmless, tables, pictures, and the page around them."""

from __future__ import annotations

import base64
import contextlib
import html
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PICTURE = 4 * 2**20  # bytes of a PNG that the page still holds
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1e22;--soft:#59616a;--line:#dde1e5;--page:#fff;
--card:#f5f7f9;--link:#1f5fa8;--mark:#e3eefb;--warn:#7a4300;--alarm:#fff3df}
@media (prefers-color-scheme:dark){:root{--ink:#e3e6e9;--soft:#9da6af;--line:#353a40;
--page:#15181b;--card:#1d2125;--link:#7db5f2;--mark:#20354d;--warn:#f2c684;--alarm:#33291a}
img.own{filter:invert(.9) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .75rem}
h3{font-size:1rem;margin:1.25rem 0 .4rem;overflow-wrap:anywhere}
section{margin-top:2.5rem;padding-top:1.25rem;border-top:1px solid var(--line)}
p{margin:.4rem 0;max-width:48rem}
a{color:var(--link)}
nav{margin-top:1.25rem;font-size:.9rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;margin:0;padding:0}
dl.facts{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin:1rem 0 0}
dl.facts dt{font-size:.8rem;color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
dl.facts .lead dd{font-size:1.4rem;line-height:1.3;font-variant-numeric:tabular-nums}
.soft,figcaption,caption{color:var(--soft);font-size:.875rem}
.scroll{overflow-x:auto;margin:.5rem 0 1rem}
table{border-collapse:collapse;font-size:.9rem}
caption{text-align:left;padding-bottom:.3rem}
th,td{padding:.28rem .75rem .28rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:500;white-space:nowrap;vertical-align:bottom}
tbody th{font-weight:500}
td{overflow-wrap:anywhere}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-left:.75rem}
.key{background:var(--mark)}
.pair{display:flex;flex-wrap:wrap;gap:0 3rem}
.pair>*{min-width:0}
figure{margin:.75rem 0 1rem}
img{max-width:100%;height:auto;display:block;border-radius:4px;background:#fff}
.warn{background:var(--alarm);color:var(--warn);padding:.5rem .75rem;border-radius:4px}
summary{cursor:pointer}
code{font:.875em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.bar{display:block;height:.6rem;min-width:1px;background:var(--link)}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#ccc;--page:#fff;
--card:#fff;--link:#000;--mark:#eee;--warn:#000;--alarm:#fff}
body{font-size:10pt}main{max-width:none;padding:0}nav{display:none}
section{margin-top:1.25rem}figure,tr,h2,h3{break-inside:avoid}h2,h3{break-after:avoid}
img.own{filter:none}.scroll{overflow:visible}}
"""


class Html(str):
    """Text that is markup already, and is not escaped again."""


Section = tuple[str, str, str]  # identifier, title, markup


def document(
    title: str,
    lead: Mapping[str, Any],
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    above: str = "",
) -> str:
    """A whole page; sections without content are left out.

    Args:
      title: its heading.
      lead: what it is about, by name, in large print.
      facts: what else it is about; None is left out.
      sections: in order.
      above: markup before the heading.
    """
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{escaped(name)}</a></li>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{escaped(name)}</h2>'
        f"{markup}</section>\n"
        for key, name, markup in sections
    )
    top = [_fact(name, value, "lead") for name, value in lead.items()]
    top += [_fact(name, value) for name, value in facts.items() if value is not None]
    tab = f"{title} · {facts.get('data')}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(tab)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>{above}<h1>{escaped(title)}</h1>
<dl class="facts">{"".join(top)}</dl>
<nav aria-label="Sections"><ul>{links}</ul></nav></header>
{body}</main>
</body>
</html>
"""


def _fact(name: str, value: Any, kind: str = "") -> str:
    return f'<div class="{kind}"><dt>{escaped(name)}</dt><dd>{escaped(shown(value))}</dd></div>'


def escaped(value: Any) -> str:
    """Whatever a user may have written, made harmless."""
    return value if isinstance(value, Html) else html.escape(str(value))


def shown(value: Any) -> str:
    """A number as people read it; other things as text, a dash for nothing."""
    if value is None or value == "" or value == "-":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    caption: str,
    marks: Iterable[tuple[str, int]] = (),
) -> str:
    """A table; the first cell of a row is its header, columns of numbers stand on the right.

    ``marks`` are cells to point out, as (first cell of the row, number of the column).
    """
    cells = [[each if isinstance(each, Html) else shown(each) for each in row] for row in rows]
    if not cells:
        return ""
    right = {n for n in range(1, len(head)) if all(_numeric(row[n]) for row in cells)}
    marks = set(marks)

    def cell(tag: str, text: str, n: int, marked: bool = False) -> str:
        kinds = " ".join(["n"] * (n in right) + ["key"] * marked)
        kind = f' class="{kinds}"' if kinds else ""
        return f"<{tag}{kind}>{escaped(text)}</{tag.split(' ')[0]}>"

    header = "".join(cell('th scope="col"', name, n) for n, name in enumerate(head))
    body = "".join(
        "<tr>"
        + cell('th scope="row"', row[0], 0)
        + "".join(cell("td", row[n], n, (row[0], n) in marks) for n in range(1, len(row)))
        + "</tr>"
        for row in cells
    )
    top = f"<thead><tr>{header}</tr></thead>" if any(head) else ""
    return (
        f'<div class="scroll"><table><caption>{escaped(caption)}</caption>'
        f"{top}<tbody>{body}</tbody></table></div>"
    )


def _numeric(text: str) -> bool:
    """Whether a cell is a number, perhaps with a deviation or unit, or stands for a missing one."""
    first = text.split(" ")[0].replace(",", "").replace(":", "")  # of spreads, units and clocks
    if text in ("–", "", "diverged"):
        return True
    with contextlib.suppress(ValueError):
        return bool(math.isfinite(float(first)))
    return False


def pairs(facts: Any, caption: str) -> str:
    """Nested facts as a table of dotted names and values; what is None is left out."""
    rows = [(key, _line(value)) for key, value in _flat(facts or {}) if value is not None]
    return table(["", ""], rows, caption) if rows else ""


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _line(value: Any) -> str:
    """A value on one line; lists by their members."""
    text = ", ".join(map(_line, value)) if isinstance(value, (list, tuple)) else shown(value)
    return text if len(text) <= 400 else text[:399] + "…"


def folded(title: str, markup: str) -> str:
    return f"<details><summary>{escaped(title)}</summary>{markup}</details>" if markup else ""


def figure(path: Path, alt: str, caption: str, kind: str = "") -> str:
    """A picture as part of the page; nothing where it is none."""
    if not path.exists():
        return ""
    if path.stat().st_size > _PICTURE:
        name = escaped(path.name)
        return f'<p><a href="{name}">{name}</a> (too large for this page)</p>'
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE) or len(data) < 24:
        return ""
    width, height = struct.unpack(">II", data[16:24])
    note = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img class="{kind}" alt="{escaped(alt)}" width="{round(0.8 * width)}" '
        f'height="{round(0.8 * height)}" src="data:image/png;base64,'
        f'{base64.b64encode(data).decode()}">{note}</figure>'
    )
