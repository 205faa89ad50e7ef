# gin-config has no types, and pyright misreads its decorators. They return what they decorate, but
# any argument of a decorated function may come from the configuration.
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

_C = TypeVar("_C", bound=type[Any])
_R = TypeVar("_R")

class _Decorator(Protocol):
    @overload
    def __call__(self, decorated: _C) -> _C: ...
    @overload
    def __call__(self, decorated: Callable[..., _R]) -> Callable[..., _R]: ...

@overload
def configurable(
    name_or_fn: str | None = ...,
    module: str | None = ...,
    allowlist: list[str] | None = ...,
    denylist: list[str] | None = ...,
) -> _Decorator: ...
@overload
def configurable(name_or_fn: _C) -> _C: ...
@overload
def configurable(name_or_fn: Callable[..., _R]) -> Callable[..., _R]: ...
@overload
def register(
    name_or_fn: str | None = ...,
    module: str | None = ...,
    allowlist: list[str] | None = ...,
    denylist: list[str] | None = ...,
) -> _Decorator: ...
@overload
def register(name_or_fn: _C) -> _C: ...
@overload
def register(name_or_fn: Callable[..., _R]) -> Callable[..., _R]: ...
def __getattr__(name: str) -> Any: ...
