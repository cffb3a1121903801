"""The tree of layers."""

from __future__ import annotations

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from qkvinspect.render import text
from qkvinspect.tui.outline import Branch
from qkvinspect.tui.tables import shortened

_MOST = 24
"""Layers of a stack that is open at first."""

_SCROLLBAR = 1

_SHORTEST = 8
"""Columns of a name that is cut to fit."""


class Layers(Tree[Branch]):
    """Branches of names, and layers as leaves."""

    def __init__(self) -> None:
        super().__init__("", id="tree")
        self.guide_depth = 2

    def fill(self, branch: Branch, *, opened: bool = False) -> None:
        """Show other layers.

        Args:
            opened: whether every branch is open, however large.
        """
        self.clear()
        self.root.data = branch
        self._add(self.root, branch, opened=opened)
        self.root.expand()
        self.cursor_line = 0

    def look_at(self, layer: int) -> None:
        """Move the cursor to a layer, opening what hides it."""
        node = self.root
        while node.data is not None and node.data.children:
            node.expand()
            node = next(child for child in node.children if child.data is not None and layer in child.data.layers)
        self.call_after_refresh(self.move_cursor, node)

    def path(self, node: TreeNode[Branch]) -> str:
        """What a node is called: the labels from the root to it."""
        labels: list[str] = []
        while node.parent is not None:
            labels.append(node.data.label if node.data else "")
            node = node.parent
        return ".".join(filter(None, reversed(labels))) or "all layers"

    def render_label(self, node: TreeNode[Branch], base_style: Style, style: Style) -> Text:
        """As much of the name as there is room for: its end, which tells more than its beginning."""
        branch = node.data
        if branch is None:
            return Text()
        depth, above = 0, node.parent
        while above is not None:
            depth, above = depth + 1, above.parent
        note = f"  {branch.note}" if branch.note else ""
        room = self.size.width - depth * self.guide_depth - len(self.ICON_NODE) - cell_len(note) - _SCROLLBAR
        name = shortened(text.layer(branch.label) if node.parent else "all layers", max(room, _SHORTEST))
        icon = (self.ICON_NODE_EXPANDED if node.is_expanded else self.ICON_NODE) if branch.children else ""
        return Text.assemble((icon, base_style), (name, style), (note, style + Style(dim=True)))

    def on_resize(self) -> None:
        """Cut the names anew."""
        self.notify_style_update()

    def _add(self, node: TreeNode[Branch], branch: Branch, *, opened: bool) -> None:
        for child in branch.children:
            if child.children:
                few = not child.alike or len(child.layers) <= _MOST
                self._add(node.add(Text(child.label), child, expand=opened or few), child, opened=opened)
            else:
                node.add_leaf(Text(child.label), child)
