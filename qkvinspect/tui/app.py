"""The browser: a tree of layers with a page beside it, and the map of all heads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Footer, Input, Static, Tree

from qkvinspect.analysis import COLUMNS, Column
from qkvinspect.analysis.grid import NORMS
from qkvinspect.errors import QkvInspectError
from qkvinspect.render import text
from qkvinspect.tui import heatmap, pages
from qkvinspect.tui.colours import legend
from qkvinspect.tui.heatmap import HeatMap
from qkvinspect.tui.layers import Layers
from qkvinspect.tui.outline import Branch, outline
from qkvinspect.tui.screens import Columns, Help
from qkvinspect.tui.session import Keep, ReadingJob, Session
from qkvinspect.tui.tables import shortened
from qkvinspect.tui.work import Work

_REST = 0.15
"""Seconds for which the cursor rests before a layer is read: who runs past it does not want it."""

_TICK = 0.2
"""Seconds between two looks at how far the reading is."""


@dataclass
class Done(Message):
    """The thread has finished a job.

    Attributes:
        keep: puts what was read in its place; None where there is nothing.
        error: what went wrong, in a line.
    """

    job: ReadingJob
    keep: Keep | None
    error: str


class _StoppedError(Exception):
    """What is being read is no longer wanted."""


class Browser(App[None]):
    """Everything that is known of a checkpoint, read as it is looked at."""

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "browser.tcss"
    BINDINGS = [  # noqa: RUF012
        Binding("slash", "filter", "Filter"),
        Binding("m", "map", "Map"),
        Binding("c", "column", "Column"),
        Binding("a", "analyze", "Analyze"),
        Binding("e", "evidence", "Evidence"),
        Binding("y", "copy_code", "Copy code"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "leave", show=False),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.work = Work(session)
        self.column: Column = COLUMNS[0]
        self.chosen = session.matching("")
        self.branch = outline(session.attentions, self.chosen)
        self._path = ""
        self._error = ""
        self._resting: Timer | None = None
        self._views = ContentSwitcher(initial="layers", id="views")
        self._tree, self._cells = Layers(), HeatMap()
        self._page, self._text = VerticalScroll(id="page"), Static(id="text")
        self._title, self._cell, self._status = Static(id="title"), Static(id="cell"), Static(id="status")
        self._filter = Input(placeholder="words of a layer's name or layout", id="filter", compact=True)

    def compose(self) -> ComposeResult:
        """A line about the file, the views, a line about the reading, the keys."""
        yield Static(Text(text.headline(self.session.report)), id="file")
        with self._views:
            with Horizontal(id="layers"):
                yield self._tree
                with self._page:
                    yield self._text
            with Vertical(id="map"):
                yield self._title
                yield self._cells
                yield self._cell
        yield self._filter
        yield self._status
        yield Footer()

    def on_mount(self) -> None:
        """Show all layers."""
        self._fill(self.branch)
        self._tree.focus()
        self.set_interval(_TICK, self._say)

    def on_unmount(self) -> None:
        """Let the thread end."""
        self.work.stopping = True

    # What is looked at

    @property
    def on_map(self) -> bool:
        """Whether the map is shown."""
        return self._views.current == "map"

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Branch]) -> None:
        """Show what the cursor is on, and read it when it stays there."""
        if event.node.data is not None:
            self._look(event.node.data, self._tree.path(event.node))

    def _look(self, branch: Branch, path: str) -> None:
        self.branch, self._path = branch, path
        self._write()
        self._page.scroll_home(animate=False)
        if self._resting is not None:
            self._resting.stop()
        self._resting = self.set_timer(_REST, self._rested)

    def _rested(self) -> None:
        self.work.show(None if self.branch.children or not self.branch.layers else self.branch.layers[0])
        self._next()

    def _fill(self, branch: Branch, *, opened: bool = False) -> None:
        """Put other layers into the tree, and look at all of them."""
        self._tree.fill(branch, opened=opened)
        self._look(branch, self._tree.path(self._tree.root))

    def _write(self) -> None:
        self._text.update(pages.page(self.session, self.branch, self._path))

    def _draw(self) -> None:
        """Fill the map."""
        known = (self.session.attentions[number].heads for number in self.chosen)
        part = self.column.key[0] if self.column.key in NORMS else "q"
        heads = [one.heads(part) if one else 0 for one in known]
        grid = self.session.grid(self.column, self.chosen)
        self._cells.fill(grid, heads)
        self._title.update(legend(grid))
        self._tell()

    def on_moved(self, _: heatmap.Moved) -> None:
        """Say what the cell holds, and read the rows that came onto the screen."""
        self._tell()
        self._next()

    def on_chosen(self, event: heatmap.Chosen) -> None:
        """Leave the map for a layer."""
        self.action_map()
        self._tree.look_at(self.chosen[event.row])

    def _tell(self) -> None:
        """The cell that is looked at, in words."""
        cells, line = self._cells, Text("no layer")
        if self.chosen:
            value = cells.value
            shown = "not read" if value is None else text.number(value)
            name = text.layer(self.session.attentions[self.chosen[cells.row]].layer)
            said = f"head {cells.head}: {shown}  "
            line = Text.assemble((said, "bold"), shortened(name, max(self._cell.size.width - len(said), 1)))
        self._cell.update(line)

    # Keys

    def action_filter(self) -> None:
        """Ask for words."""
        self._filter.add_class("shown")
        self._filter.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the layers that have all of the words."""
        self.chosen = self.session.matching(event.value)
        self._fill(outline(self.session.attentions, self.chosen), opened=bool(event.value))
        if self.on_map:
            self._draw()

    def on_input_submitted(self) -> None:
        """Go to what was found."""
        self._focus()

    def action_leave(self) -> None:
        """Stop reading; else show all layers again."""
        if self.work.left or (self.work.running and self.work.running.what != "norms"):
            self.work.stop()
        else:
            self._filter.value = ""
            self._filter.remove_class("shown")
            self._focus()
        self._error = ""
        self._say()

    def action_map(self) -> None:
        """Change between the tree and the map."""
        self._views.current = "layers" if self.on_map else "map"
        if self.on_map:
            self._draw()
        self._focus()
        self.call_after_refresh(self._next)

    def _focus(self) -> None:
        (self._cells if self.on_map else self._tree).focus()

    def action_column(self) -> None:
        """Choose what the map shows."""
        self.push_screen(Columns(self.column), self._take)

    def _take(self, column: Column | None) -> None:
        if column is not None:
            self.column = column
            if not self.on_map:
                self.action_map()
            self._draw()
            self._next()

    def action_analyze(self) -> None:
        """Analyze what is chosen."""
        self.work.analyze(self._scope())
        self._next()

    def action_evidence(self) -> None:
        """Ask the weights of what is chosen."""
        if self._scope():
            self.work.ask(self._scope())
            self._next()

    def action_copy_code(self) -> None:
        """Put the code that slices the layer that is looked at, or the first of the branch, where it can be pasted."""
        code, said = pages.code(self.session, self._pointed())
        if code:
            self.copy_to_clipboard(code)
        self.notify(said, markup=False)

    def _pointed(self) -> int | None:
        """The layer that is looked at."""
        if self.on_map:
            return self.chosen[self._cells.row] if self.chosen else None
        return self.branch.layers[0] if self.branch.layers else None

    def _scope(self) -> tuple[int, ...]:
        return tuple(self.chosen) if self.on_map else self.branch.layers

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    # Reading

    def _next(self) -> None:
        """Start the next job, unless one runs."""
        if self.work.running is not None:
            return
        rows = self._cells.on_screen if self.on_map and self.column.key in NORMS else ()
        job = self.work.begin([self.chosen[row] for row in rows if self.session.attentions[self.chosen[row]].heads])
        if job is not None:
            self._error = ""
            Thread(target=self._read, args=(job,), daemon=True).start()  # nobody who leaves waits for it
        self._say()

    def _read(self, job: ReadingJob) -> None:
        """In a thread of its own."""
        keep, error = None, ""
        try:
            keep = self.session.read(job, self._advance)
        except _StoppedError:
            pass
        except QkvInspectError as problem:
            error = str(problem)
        with suppress(RuntimeError):  # the browser was left
            self.post_message(Done(job, keep, error))

    def _advance(self, done: int, total: int) -> None:
        if self.work.stopping:
            raise _StoppedError
        self.work.share = done / total if total else 0.0

    def on_done(self, event: Done) -> None:
        """Show what was read, and go on."""
        self.work.end(failed=bool(event.error))
        if event.keep is not None:
            event.keep()
            if self.on_map:
                self._draw()
            if set(event.job.layers) & set(self.branch.layers):
                self._write()
        self._next()
        if event.error:
            self._error = event.error
            self._say()

    def _say(self) -> None:
        """What is being read, or what went wrong."""
        job, line = self.work.running, Text()
        if self._error:
            line = Text(f"error: {self._error}", style="bold red")
        elif job is not None:
            doing = {"norms": "measuring", "figures": "analyzing", "evidence": "asking the weights of"}[job.what]
            name = text.layer(self.session.attentions[job.layers[0]].layer)
            what = name if len(job.layers) == 1 else text.count(len(job.layers), "layer")
            share = f" {self.work.share:.0%}" if job.what == "norms" and self.work.share else ""
            left = f", {self.work.left} more; esc stops" if self.work.left else ""
            line = Text(f"{doing} {what}{share}{left}", style="italic")
        elif self.on_map and self.column.key not in NORMS and len(self.session.figures) < len(self.chosen):
            line = Text("a analyzes all layers of the map", style="dim")
        self._status.update(line)
