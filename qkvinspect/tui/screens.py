"""Screens shown on top of the browser: the help, and the choice of a column."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from qkvinspect.analysis import COLUMNS, Column

_HELP = """\
up, down         another layer; in the map another cell
left, right      in the map another head
enter            open or close a branch; in the map: see the layer
tab              from the tree to the page beside it, and back
page up, down    a screen further
/                filter: names or layouts with all of these words
esc              stop what is being read; show all layers again
m                the map of all heads, or back to the tree
c                the figure that the map shows
a                analyze: spectra, circuits, bounds on logits
e                ask the weights how many heads there are
y                copy the code that slices the layer
?                this help
q                quit

a and e are for the layer or branch that is chosen; in the map for
all its layers. Norms are read when a layer is shown.

In the map the least value is dark, the greatest light; cosines go
from blue (-1) over white to red (1). · is what was not read."""


class Help(ModalScreen[None]):
    """The keys, and what the colours mean."""

    BINDINGS = [Binding("escape,q,question_mark,enter", "dismiss", "Close")]  # noqa: RUF012

    def compose(self) -> ComposeResult:
        """A text, which scrolls where the terminal is small."""
        with VerticalScroll(classes="box"):
            yield Static(Text(_HELP))


class Columns(ModalScreen[Column | None]):
    """Which figure the map is to show."""

    BINDINGS = [Binding("escape,q,c", "dismiss", "Close")]  # noqa: RUF012

    def __init__(self, chosen: Column) -> None:
        super().__init__()
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """All columns, the chosen one first looked at."""
        choice = OptionList(*(Option(Text(column.title), column.key) for column in COLUMNS), classes="box")
        choice.highlighted = COLUMNS.index(self._chosen)
        yield choice

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Close with the column."""
        self.dismiss(COLUMNS[event.option_index])
