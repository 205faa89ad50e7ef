"""Comparing bound values with the type annotations of the parameters they are bound to.

Only what an annotation surely rules out is reported; annotations that are not understood accept
everything.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from typing import Any

from flan_jax.config import registry
from flan_jax.config.values import Reference, Unreadable, format_value
from flan_jax.suggestions import did_you_mean

UNKNOWN = object()  # a value or an annotation that nothing is known about

_SEQUENCES = (
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.MutableSequence,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN = (int, float, bool, str, bytes, complex, list, tuple, *_MAPPINGS)


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """A value that its annotation rules out.

    Attributes:
      value: what was found: the bound value, or the item of it that is wrong.
      expected: the type wanted, as shown to users.
      path: where in the bound value, such as `['inputs']`; empty for the value itself.
      hint: what to write, if that is known.
    """

    value: Any
    expected: str
    path: str = ""
    hint: str = ""

    def __str__(self) -> str:
        at = f" at {self.path}" if self.path else ""
        return f"found {describe(self.value)}{at}, expected {self.expected}{self.hint}"


def describe(value: Any) -> str:
    """A value and its type for messages: `'3' (str)`."""
    if value is None:
        return "None"
    text = format_value(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return text if isinstance(value, Reference) else f"{text} ({type(value).__name__})"


def annotation_of(configurable: registry.Configurable, name: str) -> Any:
    """The annotation of parameter `name`, evaluated; UNKNOWN if it has none or is out of reach.

    Each annotation is evaluated by itself, so that one name imported under TYPE_CHECKING only
    does not hide the others.
    """
    parameter = configurable.parameters.get(name)
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return UNKNOWN
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    scopes = [getattr(configurable.function, "__globals__", {})]
    if inspect.isclass(configurable.target):
        # The field of a dataclass may be inherited from a class of another module.
        for base in inspect.getmro(configurable.target):
            if name in inspect.get_annotations(base):
                module = sys.modules.get(base.__module__)
                scopes.append({**vars(module or typing), **vars(base)})
                break
    for scope in scopes:
        try:
            return typing.get_type_hints(
                types.SimpleNamespace(__annotations__={name: annotation}), globalns=scope
            )[name]
        except Exception:  # evaluating foreign code may raise anything
            continue
    return UNKNOWN


def mismatch(value: Any, annotation: Any) -> Mismatch | None:
    """What is wrong with binding `value` to a parameter annotated `annotation`, if anything."""
    if value is UNKNOWN or isinstance(value, Unreadable) or _accepts_anything(annotation):
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return mismatch(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return _union_mismatch(value, args, annotation)
    if isinstance(value, Reference):
        return _reference_mismatch(value, annotation)
    if annotation is None or annotation is type(None):
        return None if value is None else Mismatch(value, "None")
    if origin is typing.Literal:
        return _literal_mismatch(value, args)
    base = origin or annotation
    if _among(base, _MAPPINGS):
        return _mapping_mismatch(value, args, annotation)
    if _among(base, (list, tuple, *_SEQUENCES)):
        return _sequence_mismatch(value, base, args, annotation)
    if _is_callable_annotation(base):
        return Mismatch(value, show(annotation), hint="; give a reference such as @name")
    if _among(base, _PLAIN):
        return None if _is_plain(value, base) else _plain_mismatch(value, base)
    if inspect.isclass(base) and dataclasses.is_dataclass(base):
        example = registry.find_object(base) or base.__name__
        return Mismatch(value, f"an instance of {base.__name__}", hint=f"; write @{example}()")
    if typing.is_typeddict(base):
        return None if isinstance(value, dict) else Mismatch(value, "dict")
    return None


def show(annotation: Any) -> str:
    """An annotation as written in code: `dict[str, int]`, `int | None`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None) or annotation is None:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(show, args))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if isinstance(annotation, list):
        return "[" + ", ".join(map(show, annotation)) + "]"
    name = getattr(origin or annotation, "__name__", None) or str(annotation)
    return f"{name}[{', '.join(map(show, args))}]" if args else name


def _accepts_anything(annotation: Any) -> bool:
    return _among(annotation, (UNKNOWN, Any, object)) or isinstance(
        annotation, (typing.TypeVar, str)
    )


def _among(annotation: Any, group: tuple[Any, ...]) -> bool:
    """Whether `annotation` is one of `group`; == on foreign objects may mean anything."""
    return any(annotation is each for each in group)


def _is_callable_annotation(base: Any) -> bool:
    return _among(base, (collections.abc.Callable, type))


def _is_plain(value: Any, base: type) -> bool:
    if isinstance(value, bool):
        return base is bool
    if base is float:
        return isinstance(value, (int, float))
    if base is complex:
        return isinstance(value, (int, float, complex))
    return isinstance(value, base)


def _plain_mismatch(value: Any, base: type) -> Mismatch:
    hint = ""
    if base is int and isinstance(value, float) and value.is_integer():
        hint = f"; write {int(value)}"
    elif base is str and isinstance(value, (int, float)):
        hint = f"; quote it: '{format_value(value)}'"
    elif isinstance(value, str) and base is not str:
        if base is bool:
            hint = did_you_mean(value, ("True", "False"))
        elif value.replace(".", "", 1).replace("-", "", 1).isdigit():
            hint = "; leave out the quotes"
    return Mismatch(value, base.__name__, hint=hint)


def _literal_mismatch(value: Any, choices: tuple[Any, ...]) -> Mismatch | None:
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return None
    texts = [choice for choice in choices if isinstance(choice, str)]
    hint = did_you_mean(value, texts) if isinstance(value, str) else ""
    return Mismatch(value, "one of " + ", ".join(map(repr, choices)), hint=hint)


def _union_mismatch(value: Any, members: tuple[Any, ...], annotation: Any) -> Mismatch | None:
    found = [mismatch(value, member) for member in members]
    if any(each is None for each in found):
        return None
    inner = [each for each in found if each is not None]
    deep = [each for each in inner if each.path]
    if len(deep) == 1:  # the container is right and an item of it wrong
        return deep[0]
    hints = [each.hint for each in inner if each.hint]
    return Mismatch(value, show(annotation), hint=hints[0] if hints else "")


def _mapping_mismatch(value: Any, args: tuple[Any, ...], annotation: Any) -> Mismatch | None:
    if not isinstance(value, dict):
        return Mismatch(value, show(annotation))
    if len(args) != 2:
        return None
    for key, item in value.items():
        wrong = mismatch(key, args[0])
        if wrong:
            return dataclasses.replace(wrong, path=f"key {format_value(key)}{wrong.path}")
        wrong = mismatch(item, args[1])
        if wrong:
            return dataclasses.replace(wrong, path=f"[{format_value(key)}]{wrong.path}")
    return None


def _sequence_mismatch(
    value: Any, base: Any, args: tuple[Any, ...], annotation: Any
) -> Mismatch | None:
    accepted = (list, tuple) if _among(base, _SEQUENCES) else base
    if not isinstance(value, accepted):
        hint = ""
        if isinstance(value, (list, tuple)):
            hint = f"; write {format_value(list(value) if base is list else tuple(value))}"
        elif isinstance(value, str) and str in args:
            # Python would take each character for an item.
            hint = f"; write {format_value((value,) if base is tuple else [value])}"
        return Mismatch(value, show(annotation), hint=hint)
    items = (args[0],) * len(value) if args else ()
    if base is tuple and args and args[-1] is not Ellipsis:
        items = args
        if len(items) != len(value):
            return Mismatch(value, f"{show(annotation)}, {len(items)} items")
    for index, (item, item_type) in enumerate(zip(value, items, strict=False)):
        wrong = mismatch(item, item_type)
        if wrong:
            return dataclasses.replace(wrong, path=f"[{index}]{wrong.path}")
    return None


def _reference_mismatch(reference: Reference, annotation: Any) -> Mismatch | None:
    """Whether a class or function was given for an instance, or the other way round."""
    if registry.matching(reference.selector) != [reference.selector]:
        return None  # unknown or ambiguous: reported as such
    target = registry.get(reference.selector).target
    is_class = inspect.isclass(target)
    base = typing.get_origin(annotation) or annotation
    if reference.evaluate:
        if _is_callable_annotation(base):
            if is_class and not callable_instances(target) and not issubclass(target, type):
                uncalled = dataclasses.replace(reference, evaluate=False)
                return Mismatch(reference, show(annotation), hint=f"; write {uncalled!r}")
        elif is_class and _is_concrete(base) and not issubclass(target, base):
            return Mismatch(reference, f"an instance of {show(annotation)}")
        return None
    if not inspect.isclass(base) or _is_callable_annotation(base):
        return None
    if typing.is_typeddict(base) or getattr(base, "_is_protocol", False):
        return None
    if callable_instances(base) or isinstance(target, base):
        return None
    called = dataclasses.replace(reference, evaluate=True)
    what = "class" if is_class else "function"
    return Mismatch(
        reference, f"an instance of {show(annotation)}, not the {what}", hint=f"; write {called!r}"
    )


def _is_concrete(base: Any) -> bool:
    """Whether only instances of the class `base` will do: no duck typing is meant."""
    return _among(base, (*_PLAIN, type(None))) or (
        inspect.isclass(base) and dataclasses.is_dataclass(base)
    )


def callable_instances(cls: type) -> bool:
    """Whether instances of `cls` can be called."""
    return any("__call__" in base.__dict__ for base in cls.__mro__)
