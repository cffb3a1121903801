"""Names of tensors by their paths."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping, ValuesView
from operator import eq

from qkvinspect.tensor_table import NamedBlock, TensorTable

Path = tuple[str, ...]


class TablePaths(Mapping[str, Path]):
    """The paths of a table's names, where these are nothing but their components: each made when it is asked for."""

    def __init__(self, table: TensorTable) -> None:
        self.table = table

    def __getitem__(self, name: str) -> Path:
        if name not in self.table:
            raise KeyError(name)
        return tuple(name.split("."))

    def get(self, key: str, default: Path | None = None) -> Path | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(key.split(".")) if key in self.table else default

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def items(self) -> ItemsView[str, Path]:
        return _PathItems(self)

    def values(self) -> ValuesView[Path]:
        return _PathValues(self)

    def each(self) -> Iterator[tuple[str, Path]]:
        """Every name with its path, in the order of the file; each component that blocks share is kept once."""
        ends: dict[int, list[Path]] = {}
        for part in self.table.parts():
            if isinstance(part, NamedBlock):
                form, begin = part.form, tuple(part.begin.split("."))
                below = ends.get(id(form)) or ends.setdefault(id(form), paths_below(form.ends))
                yield from zip(part, [begin + end for end in below], strict=True)
            else:
                yield from ((name, tuple(name.split("."))) for name, _ in part)

    def last_two(self) -> Iterator[Path]:
        """The last two components of paths of which one is the number of a block."""
        ends: dict[int, list[Path]] = {}
        for block in self.table.blocks.values():
            form = block.form
            if id(form) not in ends:
                ends[id(form)] = [end for end in paths_below(form.ends) if len(end) == 1]
            if ends[id(form)]:
                yield from ((block.begin.rpartition(".")[2], *end) for end in ends[id(form)])


class _PathItems(ItemsView[str, Path]):
    _mapping: TablePaths

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        return self._mapping.each()


class _PathValues(ValuesView[Path]):
    _mapping: TablePaths

    def __iter__(self) -> Iterator[Path]:
        return (path for _, path in self._mapping.each())


def paths_below(ends: Collection[str]) -> list[Path]:
    """What follows the number of a block in paths, by what follows it in names."""
    return [tuple(end.split(".")[1:]) for end in ends]


class JoinedPaths(Mapping[Path, str]):
    """Names by their paths, where these are nothing but their components: a table of them would take much room."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, path: Path) -> str:
        name = ".".join(path)
        if self._paths.get(name) != path:
            raise KeyError(path)
        return name

    def get(self, key: Path, default: str | None = None) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        name = ".".join(key)
        return name if self._paths.get(name) == key else default

    def __contains__(self, path: object) -> bool:
        return self.get(path) is not None  # pyright: ignore[reportArgumentType]  (nothing else is asked for)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths.values())

    def __len__(self) -> int:
        return len(self._paths)


def names_by_path(paths: Mapping[str, Path]) -> Mapping[Path, str]:
    """The names by their paths."""
    if isinstance(paths, TablePaths) or all(map(eq, map(".".join, paths.values()), paths)):
        return JoinedPaths(paths)
    return {path: name for name, path in paths.items()}
