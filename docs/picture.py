"""Draw docs/show.svg, the picture of the README, from what ``show`` prints of nn.Transformer in a terminal.

python docs/picture.py
"""

from __future__ import annotations

import tempfile
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.render.results.show import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import written

HERE = Path(__file__).parent

WIDTH = 80

_FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
<rect fill="#292929" x="1" y="1" width="{width}" height="{height}" rx="8" />
<g transform="translate(9, 9)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def picture() -> str:
    """The SVG. The weights are those of a seed, so that it is the same on every machine."""
    torch.manual_seed(0)
    model = torch.nn.Transformer(batch_first=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "transformer.safetensors")
        save_file(model.state_dict(), path)
        with open_checkpoint(path) as checkpoint:
            shown = document(inspect(checkpoint, Options(heads=("8",))), lines=80)
        text = written(shown, "table", ViewOptions(width=WIDTH, colour=True)).replace(f"{folder}/", "")
    command = "$ qkvinspect show transformer.safetensors --heads 8\n"
    console = Console(width=WIDTH, record=True, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(command + text), soft_wrap=False)
    return console.export_svg(code_format=_FRAME, unique_id="show")


if __name__ == "__main__":
    (HERE / "show.svg").write_text(picture())
