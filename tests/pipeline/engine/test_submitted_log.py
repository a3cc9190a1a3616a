"""The log of a submitted run holds what people are told and, with ``--json``, what the run ended with."""

from __future__ import annotations

import pytest

from pipeline.engine.submit import last_document


@pytest.mark.parametrize(
    ("log", "document"),
    [
        ('told\n{"blocks": 4}\n', '{"blocks": 4}'),
        ('{"blocks": 4}\nRay says goodbye\n{not json}\n', '{"blocks": 4}'),
        ('{"old": 1}\n{"new": 2}', '{"new": 2}'),
        ("error: it failed\n", None),
        ("", None),
    ],
)
def test_the_last_json_object_is_the_result(log: str, document: str | None) -> None:
    assert last_document(log) == document
