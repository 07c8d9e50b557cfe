"""Objects to JSON and arrays, and back: of known classes only, with sharing kept, without running anything.

A value is written as itself where it is None, a bool, an int, a string or a finite float, and else as a list
that begins with its kind::

    ["f", "nan"]                   a float that is not finite
    ["t", [...]]                   tuple
    ["l" | "q" | "d" | "o", n]     list, deque, dict or object: entry n of the table of objects
    ["a" | "T", n]                 numpy array or torch tensor: entry n of the arrays
    ["x", name]                    something that the reader has itself, such as the pronouncer

An entry of the table is ``[class name, [value, ...]]`` for an object (its fields in the order of the layout),
``[null, [value, ...]]`` for a list or deque, and ``[null, [[key, value], ...]]`` for a dict. What was one object
is one object again.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Layout = Mapping[type, tuple[str, ...]]


def fields_of(kind: type, specimen: Any = None) -> tuple[str, ...]:
    """The fields that make up an object: a named tuple's, a dataclass's, or else a specimen's attributes."""
    if hasattr(kind, "_fields"):
        return kind._fields
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return tuple(sorted(vars(specimen)))


class ObjectGraph:
    """Writes and reads values.

    Args:
        layout: the classes that may occur, and their fields.
        externals: objects that are written as their name only.
    """

    def __init__(self, layout: Layout, externals: Mapping[str, Any]) -> None:
        self._layout = layout
        self._by_name = {kind.__qualname__: kind for kind in layout}
        self._externals = externals
        self._external_names = {id(thing): name for name, thing in externals.items()}

    @property
    def fingerprint(self) -> str:
        """Changes with every class and field, so that a file of another version is told from its own."""
        listing = sorted((kind.__qualname__, fields) for kind, fields in self._layout.items())
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    def write(self, value: Any) -> tuple[dict[str, Any], Arrays]:
        """JSON and arrays.

        Raises:
            TypeError: for an object of a class that is not in the layout, or whose fields are not the layout's.
        """
        writer = _Writer(self._layout, self._external_names)
        root = writer.write(value)
        return {"root": root, "objects": writer.table}, writer.arrays

    def read(self, graph: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> Any:
        """The value.

        Raises:
            ValueError, TypeError, KeyError, IndexError: where the JSON is not what ``write`` makes.
        """
        return _Reader(self._layout, self._by_name, self._externals, graph["objects"], arrays).read(graph["root"])


class _Writer:
    def __init__(self, layout: Layout, external_names: Mapping[int, str]) -> None:
        self._layout = layout
        self._external_names = external_names
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self.table: list[Any] = []
        self.arrays: Arrays = []

    def write(self, value: Any) -> Any:
        if id(value) in self._external_names:
            return ["x", self._external_names[id(value)]]
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else ["f", repr(value)]
        if isinstance(value, np.generic):
            return self.write(value.item())
        if kind is tuple:
            return ["t", [self.write(item) for item in value]]
        if kind is np.ndarray:
            return self._array("a", value)
        if kind in self._layout:
            return ["o", self._entry(value, kind)]
        if kind in (list, deque, dict):
            return [{list: "l", deque: "q", dict: "d"}[kind], self._entry(value, kind)]
        if kind.__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
            return self._array("T", value.detach().cpu().numpy())
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not part of the snapshot format")

    def _array(self, tag: str, value: np.ndarray) -> Any:
        self.arrays.append(value)
        return [tag, len(self.arrays) - 1]

    def _entry(self, value: Any, kind: type) -> int:
        if id(value) in self._numbers:
            return self._numbers[id(value)]
        number = self._numbers[id(value)] = len(self.table)
        self._kept.append(value)
        self.table.append(None)
        if kind is dict:
            entry = [None, [[self.write(key), self.write(item)] for key, item in value.items()]]
        elif kind in self._layout:
            fields = self._layout[kind]
            if hasattr(value, "__dict__") and set(vars(value)) != set(fields):
                raise TypeError(f"{kind.__qualname__} has other fields than {fields}")
            entry = [kind.__qualname__, [self.write(getattr(value, name)) for name in fields]]
        else:
            entry = [None, [self.write(item) for item in value]]
        self.table[number] = entry
        return number


class _Reader:
    def __init__(
        self, layout: Layout, by_name: Mapping[str, type], externals: Mapping[str, Any], table: Sequence[Any],
        arrays: Sequence[np.ndarray],
    ) -> None:  # fmt: skip
        self._layout, self._by_name, self._externals = layout, by_name, externals
        self._table, self._arrays = table, arrays
        self._made: dict[int, Any] = {}

    def read(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        tag, content = value
        if tag == "f":
            return float(content)
        if tag == "t":
            return tuple(map(self.read, content))
        if tag == "a":
            return self._arrays[content]
        if tag == "T":
            import torch

            return torch.from_numpy(self._arrays[content])
        if tag == "x":
            return self._externals[content]
        if content not in self._made:
            self._make(tag, content)
        return self._made[content]

    def _make(self, tag: str, number: int) -> None:
        name, content = self._table[number]
        if tag == "d":
            made = self._made[number] = {}
            made.update((self.read(key), self.read(item)) for key, item in content)
        elif tag in ("l", "q"):
            made = self._made[number] = [] if tag == "l" else deque()
            made.extend(map(self.read, content))
        elif tag == "o":
            self._make_object(number, self._by_name[name], content)
        else:
            raise ValueError(f"unknown kind {tag!r}")

    def _make_object(self, number: int, kind: type, content: Sequence[Any]) -> None:
        fields = self._layout[kind]
        if len(content) != len(fields):
            raise ValueError(f"{kind.__qualname__} has {len(content)} fields instead of {len(fields)}")
        if issubclass(kind, tuple):
            self._made[number] = tuple.__new__(kind, map(self.read, content))
            return
        made = self._made[number] = object.__new__(kind)
        for name, item in zip(fields, content):
            object.__setattr__(made, name, self.read(item))  # frozen ones included
