"""Which checks run, how severe each is, and what is expected: the ``check`` table of qkvinspect.toml or pyproject.toml.

[check]
select = ["*"]                          # codes or globs of codes; all unless given
ignore = ["norm-outlier"]
fail_on = "error"                       # the least severity that makes the exit code 1; "warning" unless given

[check.severity]
zero-head = "error"

[check.layers."decoder.*"]              # for layers that match; the last match counts
ignore = ["equal-*"]
severity = { dead-head = "info" }

[check.expect."encoder.*"]              # of the layers that match; "*" is all
num_layers = 6
num_heads = 8
q_norm = [10.0, 40.0]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from qkvinspect.errors import UsageError
from qkvinspect.finding_codes import SEVERITIES, FindingKind, Severity
from qkvinspect.parsed import is_items, is_mapping


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold for the layers that a glob names; None where anything may.

    Attributes:
        num_layers: how many attention modules match.
        layout: the id of their layout.
        norm, q_norm, k_norm, v_norm: least and greatest Frobenius norm of every part, or of one.
    """

    num_layers: int | None = None
    embed_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    dtype: str | None = None
    layout: str | None = None
    norm: tuple[float, float] | None = None
    q_norm: tuple[float, float] | None = None
    k_norm: tuple[float, float] | None = None
    v_norm: tuple[float, float] | None = None


_COUNTS = ("num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim")
_RANGES = ("norm", "q_norm", "k_norm", "v_norm")


@dataclass(frozen=True, slots=True)
class Override:
    """What counts for some layers only."""

    ignore: tuple[str, ...] = ()
    severity: tuple[tuple[str, Severity], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project wants of its checkpoints.

    Attributes:
        select, ignore: globs of codes.
        severity: (glob of codes, severity); the last match counts.
        layers: (glob of layers, override); the last match counts.
        expect: (glob of layers, expectation); all that match must hold.
        fail_on: the least severity that makes a check fail.
    """

    select: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    severity: tuple[tuple[str, Severity], ...] = ()
    layers: tuple[tuple[str, Override], ...] = ()
    expect: tuple[tuple[str, Expectation], ...] = ()
    fail_on: Severity = "warning"

    def severity_of(self, code: FindingKind, layer: str | None) -> Severity | None:
        """The severity of a finding; None where it is not wanted."""
        ignored = list(self.ignore)
        grave = list(self.severity)
        for glob, override in self.layers:
            if layer is not None and fnmatchcase(layer, glob):
                ignored += override.ignore
                grave += override.severity
        if not _fits(code, self.select) or _fits(code, ignored):
            return None
        for glob, severity in reversed(grave):
            if fnmatchcase(code, glob):
                return severity
        return code.in_check


def parse(table: Mapping[str, object], codes: Collection[str], origin: str = "") -> Policy:
    """The policy that a table of settings describes.

    Args:
        codes: all that ``check`` can report.

    Raises:
        UsageError: a key is not known, a value has another form, or no finding of ``check`` has such a code.
    """
    return _Parser(codes, origin).policy(table)


def _fits(code: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(code, glob) for glob in globs)


@dataclass(frozen=True, slots=True)
class _Parser:
    codes: Collection[str]
    origin: str

    def policy(self, table: Mapping[str, object]) -> Policy:
        self._known(table, "check", [field.name for field in fields(Policy)])
        return Policy(
            self._globs(table.get("select", ["*"]), "select"),
            self._globs(table.get("ignore", []), "ignore"),
            self._severities(table.get("severity", {}), "severity"),
            tuple((glob, self._override(each, glob)) for glob, each in self._table(table, "layers").items()),
            tuple((glob, self._expectation(each, glob)) for glob, each in self._table(table, "expect").items()),
            self._severity(table.get("fail_on", "warning"), "fail_on"),
        )

    def _override(self, value: object, glob: str) -> Override:
        where = f'layers."{glob}"'
        table = self._dict(value, where)
        self._known(table, where, ("ignore", "severity"))
        return Override(
            self._globs(table.get("ignore", []), f"{where}.ignore"),
            self._severities(table.get("severity", {}), f"{where}.severity"),
        )

    def _expectation(self, value: object, glob: str) -> Expectation:
        where = f'expect."{glob}"'
        table = self._dict(value, where)
        self._known(table, where, [field.name for field in fields(Expectation)])
        values: dict[str, Any] = {key: self._count(table[key], f"{where}.{key}") for key in _COUNTS if key in table}
        values |= {key: self._text(table[key], f"{where}.{key}") for key in ("dtype", "layout") if key in table}
        values |= {key: self._range(table[key], f"{where}.{key}") for key in _RANGES if key in table}
        return Expectation(**values)

    def _known(self, table: Mapping[str, object], where: str, keys: Collection[str]) -> None:
        unknown = ", ".join(repr(key) for key in table if key not in keys)
        if unknown:
            raise self._odd(f"{where} holds keys that are not known", ", ".join(keys), unknown)

    def _table(self, table: Mapping[str, object], key: str) -> dict[str, object]:
        return self._dict(table.get(key, {}), key)

    def _dict(self, value: object, where: str) -> dict[str, object]:
        if not is_mapping(value):
            raise self._odd(f"{where} is not a table", "a table", repr(value)[:60])
        return value

    def _globs(self, value: object, where: str) -> tuple[str, ...]:
        items = value if is_items(value) else [None]
        globs = [item for item in items if isinstance(item, str)]
        if len(globs) != len(items):
            raise self._odd(f"{where} is not a list of codes", 'such as ["zero-*"]', repr(items)[:60])
        return tuple(self._code(glob, where) for glob in globs)

    def _severities(self, value: object, where: str) -> tuple[tuple[str, Severity], ...]:
        table = self._dict(value, where)
        return tuple(
            (self._code(glob, where), self._severity(level, f"{where}.{glob}")) for glob, level in table.items()
        )

    def _code(self, glob: str, where: str) -> str:
        if not any(fnmatchcase(code, glob) for code in self.codes):
            raise self._odd(
                f"{where} names a check that is not known", "a code that `qkvinspect check --list` shows", glob
            )
        return glob

    def _severity(self, value: object, where: str) -> Severity:
        if value not in SEVERITIES:
            raise self._odd(f"{where} is no severity", ", ".join(SEVERITIES), repr(value)[:60])
        return value

    def _count(self, value: object, where: str) -> int:
        if type(value) is not int or value < 0:
            raise self._odd(f"{where} is no count", "a whole number", repr(value)[:60])
        return value

    def _text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            raise self._odd(f"{where} is no text", "a name", repr(value)[:60])
        return value

    def _range(self, value: object, where: str) -> tuple[float, float]:
        items = value if is_items(value) else []
        numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
        bounds = [float(item) for item in numbers if isinstance(item, float) or abs(item) < 10**300]
        if len(bounds) != 2 or len(items) != 2 or not bounds[0] <= bounds[1]:
            raise self._odd(f"{where} is no range", "[least, greatest]", repr(items)[:60])
        return bounds[0], bounds[1]

    def _odd(self, message: str, expected: str, found: str) -> UsageError:
        return UsageError(message, file=self.origin or None, expected=expected, found=found)
