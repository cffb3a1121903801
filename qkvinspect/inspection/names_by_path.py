"""Names of tensors by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import eq

Path = tuple[str, ...]


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
    if all(map(eq, map(".".join, paths.values()), paths)):
        return JoinedPaths(paths)
    return {path: name for name, path in paths.items()}
