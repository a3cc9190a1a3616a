"""A slip of the finger in a field's name is answered with the field, for every field of every kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.settings.yaml_file import SettingsFile
from tests.pipeline.settings.test_yaml_file import DOCUMENTS, KINDS


def fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields, those of single sections included."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, (*above, name))


def slips(name: str) -> set[str]:
    """A letter left out, typed twice, or two in the wrong order, in the middle; a hyphen for an underscore."""
    middle = len(name) // 2
    return {
        name[:middle] + name[middle + 1 :],
        name[:middle] + name[middle - 1] + name[middle:],
        name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :],
        name.replace("_", "-"),
        name.upper(),
    } - {name}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_slip_is_answered_with_the_field(kind: type[SettingsFile]) -> None:
    paths = [path for path in fields(kind) if len(path[-1]) >= 4]
    assert len(paths) > 5
    for path in paths:
        *sections, name = path
        for slip in sorted(slips(name)):
            wrong: dict[str, Any] = {slip: 1}
            for section in reversed(sections):
                wrong = {section: wrong}
            with pytest.raises(ConfigError) as refused:
                kind.from_dict({**DOCUMENTS[kind], **wrong})
            assert f"{'.'.join((*sections, slip))}: " in str(refused.value)
            assert f"did you mean {name}?" in str(refused.value), slip
