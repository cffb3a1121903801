"""Many small cases in one test: pytest itself takes longer over a test than most of them do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import pytest

SIZE = 50


def batches(cases: Sequence[Any], size: int = SIZE) -> list[Sequence[Any]]:
    """The cases, in their order, so many at a time."""
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def each(cases: Iterable[tuple[Any, ...]], check: Callable[..., None]) -> None:
    """Check every case, of which the first entry is what it is called where it fails."""
    for name, *case in cases:
        try:
            check(*case)
        except pytest.skip.Exception as skipped:
            raise AssertionError(f"the case {name!r} skips ({skipped}), and with it all that follow") from None
        except BaseException as error:
            error.add_note(f"the case is {name!r}")
            raise


Test = Callable[..., None]


def batched(names: str, cases: Mapping[str, Any] | Iterable[Any]) -> Callable[[Test], Test]:
    """As ``parametrize`` gives a test its cases, which may have what they are called: some at a time.

    They share what the test asks for besides, so none may leave anything behind.
    """
    wanted = names.split()
    labelled = [*cases.items()] if isinstance(cases, Mapping) else [(case, case) for case in cases]

    def decorated(test: Test) -> Test:
        @wraps(test)
        def some(batch: Sequence[tuple[Any, Any]], **shared: Any) -> None:
            def one(case: Any) -> None:
                test(**dict(zip(wanted, (case,) if len(wanted) == 1 else case, strict=True)), **shared)

            each(batch, one)

        whole = signature(test)
        rest = [of for name, of in whole.parameters.items() if name not in wanted]
        some.__signature__ = whole.replace(  # pyright: ignore[reportAttributeAccessIssue]
            parameters=[Parameter("batch", Parameter.POSITIONAL_OR_KEYWORD), *rest]
        )
        return pytest.mark.parametrize("batch", batches(labelled), ids=lambda batch: str(batch[0][0])[:30])(some)

    return decorated
