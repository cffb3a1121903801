"""What a page says in words: findings, what the weights tell, how two checkpoints differ."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.diff.difference import Difference
from qkvinspect.render import differences as words
from qkvinspect.render import evidence as rendered_evidence
from qkvinspect.render import text
from qkvinspect.render.html import changes
from qkvinspect.render.html.markup import Markup, Section, joined, listed, section, table, tag
from qkvinspect.render.html.side import PageSide, shown_stacks


def findings(sides: Sequence[PageSide]) -> Section:
    """What the reader should know, the gravest first as the checks have it."""
    rows = [
        (side.label, finding.severity, message, finding.code)
        for side in sides
        for finding, message in text.findings(side.findings)
    ]
    if not rows:
        return section("findings", "Findings", tag("p", "None: nothing that is checked for was found."))
    columns = ("severity", "finding", "code")
    graded = [(*([label] if label else []), _severity(grade), *rest) for label, grade, *rest in rows]
    shown = table((*(["in"] if sides[0].label else []), *columns), graded, "Findings of inspection and of all checks")
    return section("findings", "Findings", shown)


def evidence(sides: Sequence[PageSide]) -> Section:
    """What the weights themselves say; the profiles are drawn in the same order."""
    inner: list[str] = []
    drawn = 0
    for side in sides:
        stacks, left = shown_stacks(side)
        for stack in stacks:
            inner.append(tag("h3", f"{side.label}: {stack.named}" if side.label else stack.named))
            inner += map(_point, rendered_evidence.points(stack.evidence))
            if stack.evidence.profile:
                inner.append(_profile(stack, drawn))
                drawn += 1
        if left:
            inner.append(tag("p", f"... and {left} more; `qkvinspect explain --evidence` shows them."))
    if not inner:
        inner = [tag("p", f"None: the weights were not asked, or have {rendered_evidence.NOTHING}.")]
    return section("evidence", "What the weights say", joined(inner))


def differences(difference: Difference) -> Section:
    """How B differs from A."""
    inner: list[str] = [tag("p", words.verdict(difference), class_="verdict")]
    inner.append(listed(words.happened(difference), class_="happened"))
    inner.append(changes.map_of(difference))
    every = table(words.layer_columns(difference), words.layer_rows(difference), "Layers", words.NUMERIC)
    inner.append(tag("details", tag("summary", "Every layer, with its name on both sides"), every))
    for layer in words.detailed(difference, per_head=False):
        caption = f"{text.layer(layer.a)}: {words.stored(layer)}"
        inner.append(table(words.PART_COLUMNS, words.part_rows(layer), caption, words.NUMERIC))
        inner.append(listed(words.spots(layer)))
    inner += [tag("p", line) for line in words.left_out(difference, per_head=False)]
    if difference.losses:
        title = words.loss_title(difference).removesuffix(":")
        inner.append(table(words.LOSS_COLUMNS, words.loss_rows(difference), title, words.LOSS_NUMERIC))
    others = list(words.others(difference))
    if others:
        inner += [tag("h3", "Tensors outside attention"), listed(others)]
    inner.append(listed(difference.notes))
    return section("differences", "Differences", joined(inner))


def _severity(grade: str) -> Markup:
    return tag("span", grade, class_=f"severity {grade}")


def _point(point: rendered_evidence.Point) -> Markup:
    said = tag("p", tag("strong", f"{point.below or point.title}: "), point.text)
    if not point.weighed:
        return said
    rows = [(label, f"{score:.0f}", note) for label, score, note in point.weighed]
    if point.others:
        rows.append((f"... and {point.others} more", "", ""))
    inner = table((point.what, "score", ""), rows, "Hypotheses, the likeliest first", frozenset({"score"}))
    return joined((said, tag("details", tag("summary", "Everything that was weighed"), inner)))


def _profile(stack: rendered_evidence.Stack, number: int) -> Markup:
    ends = f"; a head has {stack.width} rows" if stack.width else ""
    rows = [(str(distance), text.number(tie)) for distance, tie in stack.evidence.profile]
    columns = ("rows apart", "tie, nats a pair")
    return tag(
        "figure",
        tag("figcaption", f"How strongly two rows are tied that lie so far apart{ends}."),
        tag("div", class_="profile", id=f"profile-{number}", role="img", aria_label="Bars; the numbers follow."),
        tag("details", tag("summary", "The numbers"), table(columns, rows, "Ties", frozenset(columns))),
    )
