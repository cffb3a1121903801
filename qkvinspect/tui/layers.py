"""The tree of layers."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from qkvinspect.packing import describe
from qkvinspect.render import text
from qkvinspect.tui.outline import Branch
from qkvinspect.tui.session import Session

_MOST = 24
"""Layers of a stack that is open at first."""

_LONGEST = 60
"""Characters of a label; the page has the whole name."""


class Layers(Tree[Branch]):
    """Branches of names, and layers as leaves."""

    def __init__(self) -> None:
        super().__init__(Text("all layers"), id="tree")
        self.guide_depth = 2
        self.auto_expand = True

    def fill(self, branch: Branch, session: Session, *, opened: bool = False) -> None:
        """Show other layers.

        Args:
            opened: whether every branch is open, however large.
        """
        self.clear()
        self.root.data = branch
        self.root.set_label(_label("all layers", str(len(branch.layers))))
        self._add(self.root, branch, session, opened=opened)
        self.root.expand()
        self.cursor_line = -1
        self.cursor_line = 0

    def look_at(self, layer: int) -> None:
        """Move the cursor to a layer, opening what hides it."""
        node = self._find(self.root, layer)
        if node is not None:
            above = node.parent
            while above is not None:
                above.expand()
                above = above.parent
            self.call_after_refresh(self.move_cursor, node)

    def path(self, node: TreeNode[Branch]) -> str:
        """What a node is called: the labels from the root to it."""
        labels: list[str] = []
        while node.parent is not None:
            labels.append(node.data.label if node.data else "")
            node = node.parent
        return ".".join(filter(None, reversed(labels))) or "all layers"

    def _find(self, node: TreeNode[Branch], layer: int) -> TreeNode[Branch] | None:
        while node.data is not None and node.data.children:
            inner = (child for child in node.children if child.data is not None and layer in child.data.layers)
            found = next(inner, None)
            if found is None:
                return None
            node = found
        return node

    def _add(self, node: TreeNode[Branch], branch: Branch, session: Session, *, opened: bool) -> None:
        for child in branch.children:
            if child.children:
                count = f"{len(child.layers)} alike" if child.alike else str(len(child.layers))
                below = node.add(
                    _label(child.label, count), child, expand=opened or not child.alike or len(child.layers) <= _MOST
                )
                self._add(below, child, session, opened=opened)
            else:
                heads = session.attentions[child.layers[0]].heads
                node.add_leaf(
                    _label(child.label, "" if branch.alike else describe(heads) if heads else "heads ?"), child
                )


def _label(name: str, note: str) -> Text:
    shown = text.layer(name)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST // 2]}…{shown[-_LONGEST // 2 :]}"
    return Text.assemble(shown, (f"  {note}", "dim"))
