"""What is secret in an address never reaches a file or a screen; what names the content stays."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commands.console import _Lines
from pipeline.machine.addresses import public_address, public_document, published_text, without_folders, without_secrets

SECRET = "S3CR3Tvalue"


@pytest.mark.parametrize(
    ("href", "public"),
    [
        ("https://h/a.tif?X-Amz-Signature=S3CR3Tvalue&X-Amz-Credential=S3CR3Tvalue", "https://h/a.tif"),
        ("https://h/a.tif?sv=2024&se=S3CR3Tvalue&sig=S3CR3Tvalue", "https://h/a.tif"),
        ("https://user:S3CR3Tvalue@h:8443/stac/items/1#S3CR3Tvalue", "https://h:8443/stac/items/1"),
        ("https://h/items?token=S3CR3Tvalue&ids=a", "https://h/items?ids=a"),
        ("https://h/tile?anything=S3CR3Tvalue&versionId=3", "https://h/tile?anything=S3CR3Tvalue&versionId=3"),
        ("https://h/a.tif?anything=S3CR3Tvalue&versionId=3", "https://h/a.tif?versionId=3"),
        ("s3://key:S3CR3Tvalue@bucket/a.jp2", "s3://bucket/a.jp2"),
        ("https://[broken?sig=S3CR3Tvalue", "https://[broken"),
        ("/data/a=b/c.tif", "/data/a=b/c.tif"),
    ],
)
def test_an_address_keeps_what_names_its_content(href: str, public: str) -> None:
    assert public_address(href) == public
    assert public_address(public) == public


@pytest.mark.parametrize(
    "text",
    [
        "https://h/a.tif?sig=S3CR3Tvalue cannot be read: HTTP 403",
        "'/vsicurl/https://h/a.tif?X-Amz-Signature=S3CR3Tvalue' does not exist",
        "/vsicurl?url=https%3A%2F%2Fh%2Fa.tif%3Fsig%3DS3CR3Tvalue%26se%3D1: no",
        "(see https://user:S3CR3Tvalue@h/items), and https://h/b?access_token=S3CR3Tvalue.",
        "Authorization: Bearer S3CR3Tvalue",
        "{'Authorization': 'Basic S3CR3Tvalue'}",
        "client_secret=S3CR3Tvalue, AWS_SECRET_ACCESS_KEY=S3CR3Tvalue",
        "refused: bearer S3CR3Tvalue",
        "Ocp-Apim-Subscription-Key=S3CR3Tvalue",
    ],
)
def test_a_message_of_anybody_shows_no_secret(text: str) -> None:
    assert SECRET in text
    for made in (without_secrets(text), published_text(text), public_document({"a": [text]})["a"][0]):
        assert SECRET not in made
    assert without_secrets(without_secrets(text)) == without_secrets(text)
    record = logging.LogRecord("pipeline", logging.WARNING, "", 0, "%s", (text,), None)
    assert SECRET not in _Lines("%(message)s").format(record)


@given(st.text(max_size=60), st.sampled_from(["sig", "token", "X-Amz-Signature", "password", "api_key"]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_stands_around_it(around: str, name: str, inside: bool) -> None:
    address = f"https://h/x.tif?{name}={SECRET}"
    text = f"{around} {address} {around}" if inside else f"{around} {name}={SECRET} {around}"
    assert SECRET not in without_secrets(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/archive/S2/B04.tif cannot be read", "B04.tif cannot be read"),
        ("file:///srv/a/B04.tif: no", "B04.tif: no"),
        ("B04/B03 of https://h/a/b.tif at 3 m/s", "B04/B03 of https://h/a/b.tif at 3 m/s"),
    ],
)
def test_folders_of_this_machine_are_not_published(text: str, shown: str) -> None:
    assert without_folders(text) == shown
