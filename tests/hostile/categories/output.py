"""Categories 114 to 120: names and numbers on their way out, and what stops the program."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tests.hostile.categories.case import Case, Makers, Reads
from tests.hostile.writers import zips
from tests.hostile.writers.headers import safetensors
from tests.hostile.writers.pickles import named, storage, tensor, whole

FORMATS = ("table", "json", "csv", "markdown")
BELL, ESC = "\a", "\x1b"


@dataclass(frozen=True)
class Shown:
    """A file of one attention module whose name is hostile, as a command shows it.

    Attributes:
        command: what is asked for.
        module: the name of the module.
        shows: how it must stand in the output.
    """

    label: str
    command: tuple[str, ...]
    module: str
    shows: str
    in_pickle: bool = False

    def build(self) -> bytes:
        """``MODULE.in_proj_weight``, 12 by 4."""
        data = struct.pack("<48f", *range(48))
        key = f"{self.module}.in_proj_weight"
        if not self.in_pickle:
            return safetensors({key: {"dtype": "F32", "shape": [12, 4], "data_offsets": [0, 192]}}, data)
        return zips.torch_archive(whole(named({key: tensor(storage("0", 48), 0, (12, 4), (4, 1))})), {"0": data})


def _escaped(text: str, format: str) -> str:
    """What stands for a name: escapes as Python writes them; in JSON as JSON does, in Markdown with backslashes."""
    if format == "json":
        return "".join(char if " " <= char <= "~" and char not in '"\\' else _json(char) for char in text)
    shown = "".join(char.encode("unicode_escape").decode() if _acts(char) else char for char in text)
    if format == "csv":
        shown = f"'{shown}" if shown[:1] in "=+-@" else shown
        return shown.replace('"', '""')
    if format == "markdown":
        shown = "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+!|~&@" else char for char in shown)
    return shown


def _json(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", '"': '\\"', "\\": "\\\\"}
    units = char.encode("utf-16-be", "surrogatepass")
    return short.get(char) or "".join(f"\\u{unit:04x}" for (unit,) in struct.iter_unpack(">H", units))


def _acts(char: str) -> bool:
    return ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 or char in HIDDEN


HIDDEN = (
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u2028\u2029\U000e0041"
)


def _shown(names: Mapping[str, str], in_pickle: bool = False) -> Iterator[Shown]:
    """Every name in every format; with heads, in one of them, each in its turn."""
    for number, (label, name) in enumerate(names.items()):
        for place, format in enumerate(FORMATS):
            for per_head in (False, True) if place == number % len(FORMATS) else (False,):
                command = ("show", "-f", format, *(["--per-head", "--heads", "2"] if per_head else []))
                yield Shown(f"{label}, {' '.join(command)}", command, name, _escaped(name, format), in_pickle)
        yield Shown(f"{label}, explain", ("explain",), name, _escaped(name, "table"), in_pickle)


def ansi() -> Iterator[Shown]:
    yield from _shown(
        {
            "a colour": f"a{ESC}[31mred{ESC}[0m",
            "clearing the screen": f"{ESC}[2J{ESC}[Hx",
            "a title": f"{ESC}]0;owned{BELL}x",
            "a link": f"{ESC}]8;;http://x{ESC}\\y{ESC}]8;;{ESC}\\",
            "the clipboard": f"{ESC}]52;c;eA=={BELL}",
            "a report of the cursor": f"{ESC}[6n",
            "a control of one byte": "a\x9b31mx",
            "a bell and backspaces": "a\a\b\b\bx",
            "a shift": "a\x0eb\x0f",
            "DEL": "a\x7fb",
        }
    )


def markup() -> Iterator[Shown]:
    names = {
        "rich markup": "[bold red]x[/]",
        "a rich link": "[link=http://x]y[/link]",
        "an unclosed tag": "[/x",
        "an emoji code": ":smile:",
        "HTML": "<b>x</b>",
        "a script": "<script>alert(1)</script>",
        "a Markdown link": "[x](http://y)",
        "a picture": "![x](http://y)",
        "a table's bar": "a|b|c",
        "code": "`rm -rf`",
        "emphasis": "**x** _y_",
        "a mention": "@someone",
        "an entity": "&lt;x",
        "a formula": "=1+1",
        "a formula by +": "+1+cmd",
        "a formula by -": "-1+cmd",
        "a formula by @": "@SUM(A1)",
        "a call of a program": "=cmd|' /C calc'!A0",
        "quotes": 'a"b",c',
        "a comma": "a,b;c",
        "a format": "{0} %s %(x)s",
        "a shell's words": "$(x) `y` ; rm",
    }
    yield from _shown(names)


def bidi() -> Iterator[Shown]:
    yield from _shown({f"U+{ord(char):04X}": f"a{char}b" for char in HIDDEN})


def newlines() -> Iterator[Shown]:
    chars = {
        "a newline": "\n",
        "CR": "\r",
        "CRLF": "\r\n",
        "a tab": "\t",
        "NUL": "\0",
        "a vertical tab": "\v",
        "a form feed": "\f",
        "NEL": "\x85",
        "several": "\n\n\n",
    }
    yield from _shown({label: f"a{char}b" for label, char in chars.items()})
    yield from _shown({"a newline first": "\nerror: x", "a tab first": "\t=1+1", "CR first": "\r=1+1"})


def surrogates() -> Iterator[Shown]:
    names = {
        "a high one": "a\ud800b",
        "a low one": "a\udfffb",
        "two in the wrong order": "\udc00\ud800",
        "an escaped byte": "a\udcffb",
    }
    yield from _shown(names, in_pickle=True)


def special_numbers() -> Iterator[Case]:
    values = {
        "NaN": math.nan,
        "Infinity": math.inf,
        "-Infinity": -math.inf,
        "-0": -0.0,
        "the least": 5e-324,
        "the most": 1.7976931348623157e308,
    }
    for code, layout, width in (("F64", "<d", 8), ("F32", "<f", 4), ("F16", "<e", 2)):
        for label, value in values.items():
            if code != "F64" and label == "the most":
                continue
            data = struct.pack(layout, value)
            header = {"w": {"dtype": code, "shape": [1], "data_offsets": [0, width]}}
            yield Case(f"{label} as {code}", partial(safetensors, header, data), Reads({"w": data}))
    data = bytes.fromhex("010080ff")  # a NaN that signals
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    yield Case("a NaN that signals keeps its bits", partial(safetensors, header, data), Reads({"w": data}))
    for shape in ([], [1], [1, 1]):
        header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
        yield Case(f"one number of shape {shape}", partial(safetensors, header, data), Reads({"w": data}))
    for shape in ([0], [0, 0], [0, 5], [5, 0], [1, 0, 3]):
        header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        yield Case(
            f"no number, of shape {shape}", partial(safetensors, header), Reads({"w": b"" if len(shape) < 3 else None})
        )
        root = whole(named({"w": tensor(storage("0", 0), 0, shape, [1] * len(shape))}))
        yield Case(
            f"no number, of shape {shape}, in a zip",
            partial(zips.torch_archive, root, {"0": b""}),
            Reads({"w": b"" if len(shape) < 3 else None}),
        )


SHOWN = {114: ansi, 115: markup, 116: bidi, 117: newlines, 118: surrogates}
TRUSTED: dict[int, str] = {}
MAKERS: Makers = {119: special_numbers}
