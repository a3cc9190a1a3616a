"""YAML from anybody: bounded in size, depth and what its aliases expand to; a key that is given twice is refused."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.error import YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.scanner import ScannerError

MAX_BYTES = 2**18
"""Of a file; people write some thousand bytes, and yaml reads some ten thousand a second."""
MAX_VALUES = 200_000
"""Of a file, with every alias counted as what it stands for."""
MAX_DEPTH = 50


def read_yaml(path: Path) -> Any:
    """Plain data of a YAML file.

    Raises:
        YAMLError: Not YAML, larger or deeper than people write, or a key that is given twice.
        OSError: It cannot be read.
        UnicodeDecodeError: It is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise YAMLError(f"it is larger than {MAX_BYTES // 1024} KiB: no file of settings is")
    try:
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows' shells write
        return _load(content.decode("utf-16" if utf16 else "utf-8"), str(path))
    except RecursionError as error:
        raise YAMLError(f"it is nested more than {MAX_DEPTH} deep") from error


class _Loader(yaml.SafeLoader):
    """Plain data only. A date that is none stays text, so that the field's own line says so."""

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        """Refuses depth while it is scanned: the time that yaml takes for it grows with its square."""
        if self.flow_level >= MAX_DEPTH:
            raise ScannerError(None, None, f"it is nested more than {MAX_DEPTH} deep", self.get_mark())
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        """The same for depth by indentation."""
        if len(self.indents) >= MAX_DEPTH:
            raise ScannerError(None, None, f"it is nested more than {MAX_DEPTH} deep", self.get_mark())
        return bool(super().add_indent(column))

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            # `!!int x`, `!!bool x`, a number of 5,000 digits: yaml lets the errors of its own parts out.
            raise ConstructorError(None, None, f"{node.tag} cannot be read: {error}", node.start_mark) from error

    def date(self, node: ScalarNode) -> Any:
        """A date, or the text where the calendar has no such day."""
        try:
            return self.construct_yaml_timestamp(node)
        except (ValueError, OverflowError, AttributeError):
            return node.value


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.date)


def _load(text: str, name: str) -> Any:
    loader = _Loader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values and depth below a node, each node looked at once however often aliases name it.

    Raises:
        ConstructorError: Too many, too deep, a circle, or a key given twice.
    """
    if id(node) in known:
        if known[id(node)] == (0, 0):
            raise ConstructorError(None, None, "a value that holds itself", node.start_mark)
        return known[id(node)]
    known[id(node)] = (0, 0)
    values, depth = 1, 1
    for child in _children(node):
        below, levels = _check(child, known)
        values, depth = values + below, max(depth, levels + 1)
    if values > MAX_VALUES:
        raise ConstructorError(None, None, f"aliases that expand to over {MAX_VALUES} values", node.start_mark)
    if depth > MAX_DEPTH:
        raise ConstructorError(None, None, f"it is nested more than {MAX_DEPTH} deep", node.start_mark)
    known[id(node)] = values, depth
    return values, depth


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    raise ConstructorError(
                        None, None, f"{key.value!r} is given twice, in lines {seen[name]} and {line}", key.start_mark
                    )
                seen[name] = line
            yield key
            yield value
