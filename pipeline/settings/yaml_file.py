"""The one reader of YAML files into pydantic models, for runs, data sets, trainings and evaluations.

A file comes from anybody: it is bounded in size, depth and what its aliases expand to; a key that is given twice is
refused rather than half read; each wrong field gets one line, with a suggestion where its name is unknown.
"""

from __future__ import annotations

import datetime as dt
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.errors import ConfigError
from spex_core.strict_yaml import read_yaml

MAX_LINES = 30
"""Wrong fields that a message lists."""
_PATH_ENDINGS = (".yaml", ".yml", ".json")
_VARIABLE = re.compile(r"\$[A-Za-z_]\w*|\$\{\w+\}|%[A-Za-z_]\w*%")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Section(BaseModel):
    """A part of a settings file: no unknown fields, finite numbers, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose lines are all comments is null to YAML: it has its defaults."""
        if not isinstance(data, dict) or None not in data.values():
            return data
        sections = {n for n, f in cls.model_fields.items() if not f.is_required() and _is_section(f.annotation)}
        return {name: value for name, value in data.items() if value is not None or name not in sections}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


class SettingsFile(Section):
    """A whole settings file. Relative paths in it start at the file, so that it can be used from any folder."""

    _kind: ClassVar[str] = "settings file"
    """What messages call it."""
    _help: ClassVar[str] = ""
    """Where its fields are described, for messages."""

    @classmethod
    def from_dict(cls, data: Any, base: Path | None = None, source: str | None = None) -> Self:
        """Validates plain data.

        Args:
            data: What the file holds.
            base: Where relative paths start; default: they are left as they are.
            source: What messages call the data.

        Raises:
            ConfigError: With one line per wrong field.
        """
        name = source or cls._kind
        config: Self | None = None
        wrong = list(_unusable_texts(data))
        try:
            if not wrong:
                config = cls.model_validate(data)
        except ValidationError as error:
            wrong = [_line(cls, entry) for entry in error.errors(include_url=False)]
        except (RecursionError, OverflowError) as error:
            raise ConfigError(f"{name} is not a valid {cls._kind}: it holds a value out of all bounds") from error
        if config is None:
            more = [f"  and {len(wrong) - MAX_LINES} more"] if len(wrong) > MAX_LINES else []
            raise ConfigError(f"{name} is not a valid {cls._kind}:\n" + "\n".join([*wrong[:MAX_LINES], *more]))
        return config if base is None else config._anchored(base)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Reads a file.

        Raises:
            ConfigError: Unreadable, not YAML, or a field is wrong.
        """
        path = Path(path)
        data = read_mapping(path, cls._kind, cls._help)
        try:
            base = path.parent.resolve()
        except OSError as error:
            raise ConfigError(f"{cls._kind} {path} cannot be read: {error.strerror}") from error
        return cls.from_dict(data, base, str(path))

    def _anchored(self, base: Path) -> Self:
        """The same with absolute paths."""
        return self


def anchored(base: Path, path: str | Path) -> Path:
    """A path of a settings file, from the file's folder on; ``~`` is the home folder.

    Raises:
        ConfigError: There is no such home folder, or it is none of this machine's paths: each would else become a
            folder of that very name.
    """
    text = str(path)
    if _ADDRESS.match(text):
        raise ConfigError(f"path {text!r} is an address: files and folders of this machine are meant, without file://")
    if any(map(_VARIABLE.fullmatch, re.split(r"[/\\]", text))):
        raise ConfigError(
            f"path {text!r} holds a variable, which is not filled in: write the path out, or begin with ~"
        )
    if os.sep == "/" and "\\" in text and not (base / text).exists():
        raise ConfigError(f"path {text!r} is written for Windows: on this machine / stands between folders")
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"path {str(path)!r} starts at a home folder that is not known; write it out") from error


def of_command_line(path: Path) -> Path:
    """A path of the command line, from the current folder on.

    Raises:
        ConfigError: Its links go round in a circle, or the current folder has been removed.
    """
    try:
        return anchored(Path() if path.is_absolute() else Path.cwd(), path).resolve()
    except FileNotFoundError as error:
        raise ConfigError(f"path {str(path)!r} starts at the current folder, which has been removed") from error
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"path {str(path)!r} cannot be followed: {error}") from error


def anchored_name(base: Path, value: str) -> str:
    """The same for a value that may also be a built-in name or an address: those are left as they are."""
    looks_like_path = value.startswith((".", "~")) or "/" in value or "\\" in value or value.endswith(_PATH_ENDINGS)
    return str(anchored(base, value)) if looks_like_path and "://" not in value else value


# --- YAML ---------------------------------------------------------------------------------------------------------


def read_mapping(path: Path, kind: str, help_text: str = "") -> dict[str, Any]:
    """The content of a YAML file whose top level is a mapping.

    Args:
        path: The file.
        kind: What messages call it.
        help_text: Where its fields are described, for messages.

    Raises:
        ConfigError: Unreadable, too large, not YAML, a key given twice, or no mapping.
    """
    try:
        data = read_yaml(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{kind} {path} cannot be read: save it as UTF-8 ({error})") from error
    except OSError as error:
        raise ConfigError(f"{kind} {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        tab = " (a tab: YAML wants spaces)" if "'\\t'" in str(error) else ""
        raise ConfigError(f"{kind} {path} is not valid YAML{tab}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{kind} {path} must be a mapping of settings" + (f", see {help_text}" if help_text else ""))
    return data


# --- messages -----------------------------------------------------------------------------------------------------


def _line(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One line for a wrong field: where, what, and for an unknown one what may have been meant."""
    place = error["loc"]
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        text += _suggestion(model, place)
    if error["type"] == "string_type" and isinstance(value := error["input"], bool | int | float | dt.date):
        kind = {bool: "a truth value", int: "a number", float: "a number"}.get(type(value), "a date")
        text += f"; YAML reads what stands there as {kind}: put it in quotes"
    return f"  {'.'.join(_plain(str(part)) for part in place) or '(top level)'}: {text}"


def _suggestion(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """``; did you mean ...?`` for the last name of a place: a similar field there, or the same elsewhere."""
    wanted = str(place[-1])
    here = {name for section in _sections_at(model, place[:-1]) for name in section.model_fields}
    if close := difflib.get_close_matches(wanted.lower(), sorted(here), n=1):
        return f"; did you mean {close[0]}?"
    if elsewhere := [path for path in _paths(model) if path.rpartition(".")[2] == wanted]:
        return f"; did you mean {elsewhere[0]}?"
    return f"; there are {', '.join(sorted(here))}" if here else ""


def _sections_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[type[BaseModel]]:
    sections = [model]
    for part in place:
        # What is no field is the position in a list, a key, or the name of one of several kinds: no step down.
        if found := [section.model_fields[part].annotation for section in sections if part in section.model_fields]:
            sections = [section for annotation in found for section in _sections_of(annotation)]
        elif kinds := [section for section in sections if part in _kinds(section)]:
            sections = kinds
    return sections


def _kinds(section: type[BaseModel]) -> tuple[Any, ...]:
    field = section.model_fields.get("kind")
    return (section.__name__, *(get_args(field.annotation) if field else ()))


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield above + name
        for section in _sections_of(field.annotation):
            yield from _paths(section, f"{above}{name}.")


def _unusable_texts(data: Any) -> Iterator[str]:
    """A line for every text that no path, file or terminal can hold; a few are enough."""
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for key, entry in value.items():
                inner = f"{place}.{_plain(str(key))}" if place else _plain(str(key))
                waiting += [(inner, key), (inner, entry)]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}.{position}", entry) for position, entry in enumerate(value)]
        elif isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            yield f"  {place or '(top level)'}: {value[:80]!a} holds a character that no file can hold"


def _plain(text: str) -> str:
    """A key as a message may show it: in one line, without escapes for terminals."""
    shown = text if len(text) <= 80 else text[:80] + "..."
    return shown if shown.isprintable() else ascii(shown)
