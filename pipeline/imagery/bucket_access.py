"""How files of ``s3://`` buckets are asked for: with the user's own credentials where there are any, else unsigned.

GDAL finds credentials and signs by itself, in the ways of every AWS program: keys in the environment, a profile of the
credentials or configuration file, a web identity, the role of a container or of a machine. What it does not do is to go
on without a signature where there are none, as public buckets allow; it has to be told. So this module only looks
whether there is something to find. It keeps no key: of the files it knows the names of profiles and settings.
"""

from __future__ import annotations

import functools
import http.client
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

OWN_ENDPOINTS: dict[str, dict[str, str]] = {
    # Copernicus Data Space: an own store, keys from the user's account there.
    "eodata": {"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE"},
    # Digital Earth Africa: a region that the global endpoint does not lead to.
    "deafrica-sentinel-2": {"AWS_S3_ENDPOINT": "s3.af-south-1.amazonaws.com", "AWS_REGION": "af-south-1"},
}
"""Bucket → where it is asked for, unless the environment names an endpoint."""
ALWAYS_SIGNED = ("eodata",)
USABLE_SETTINGS = frozenset(
    {"aws_access_key_id", "role_arn", "sso_start_url", "sso_session", "web_identity_token_file"}
)
"""Settings of a profile from which GDAL can get credentials."""
MACHINE_ROLES = "http://169.254.169.254"
MACHINE_ROLE_WAIT_S = 1.0


def s3_options(href: str) -> dict[str, str]:
    """GDAL's configuration for one ``s3://`` address, beside what it reads from the environment itself."""
    environment, bucket = os.environ, urlsplit(href).netloc
    options = _endpoint(environment) or dict(OWN_ENDPOINTS.get(bucket, {}))
    if bucket not in OWN_ENDPOINTS and options.get("AWS_S3_ENDPOINT") == environment.get("AWS_S3_ENDPOINT"):
        options.pop("AWS_S3_ENDPOINT", None)  # GDAL reads it itself
    if bucket in ALWAYS_SIGNED:  # as documented there, also for mirrors
        options.setdefault("AWS_VIRTUAL_HOSTING", "FALSE")
    if "AWS_SHARED_CREDENTIALS_FILE" in environment and "CPL_AWS_CREDENTIALS_FILE" not in environment:
        options["CPL_AWS_CREDENTIALS_FILE"] = environment["AWS_SHARED_CREDENTIALS_FILE"]
    if "AWS_NO_SIGN_REQUEST" not in environment and bucket not in ALWAYS_SIGNED and credentials() is None:
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    return options


def access_advice(href: str) -> str:
    """For messages about a refused ``s3://`` file: how it was asked for, and what may help."""
    needs = (
        "a bucket that is not public needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "a profile in ~/.aws/credentials, or a role"
    )
    if _is_on(os.environ.get("AWS_NO_SIGN_REQUEST", "")):
        return f"asked without a signature, because AWS_NO_SIGN_REQUEST is set: {needs}"
    found = credentials()
    if found is None and urlsplit(href).netloc not in ALWAYS_SIGNED:
        return f"asked without a signature, because there are no AWS credentials: {needs}"
    if found is None:
        return f"there are no AWS credentials: {needs}"
    if found.missing:
        return f"AWS_PROFILE asks for {found.name}, which no AWS settings file has with keys or a role"
    payer = "" if os.environ.get("AWS_REQUEST_PAYER") else ", or AWS_REQUEST_PAYER=requester if its readers pay"
    return (
        f"signed with {found.name}: they are wrong, have expired, or may not read this bucket; "
        f"a public one is read with AWS_NO_SIGN_REQUEST=YES{payer}"
    )


@dataclass(frozen=True)
class Credentials:
    """Where GDAL will look for credentials."""

    name: str
    """In words for messages, without any part of them."""
    missing: bool = False
    """They are asked for by name, and are not there: that is told, not passed over."""


def credentials() -> Credentials | None:
    """The first place at which there are credentials; None where there is none."""
    environment = os.environ
    if environment.get("AWS_ACCESS_KEY_ID"):
        return Credentials("the keys of the environment (AWS_ACCESS_KEY_ID)")
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    profile = named or "default"
    for path, sections in _settings_files(environment, profile):
        if _settings(path, sections) & USABLE_SETTINGS:
            return Credentials(f"profile {profile!r} of the AWS settings files")
    if named:
        return Credentials(f"profile {named!r}", missing=True)
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environment.get("AWS_ROLE_ARN"):
        return Credentials("the web identity of AWS_WEB_IDENTITY_TOKEN_FILE")
    if any(environment.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("FULL", "RELATIVE")):
        return Credentials("the role of this container")
    if _is_on(environment.get("AWS_EC2_METADATA_DISABLED", "")):
        return None
    anywhere = environment.get("CPL_AWS_AUTODETECT_EC2", "YES").upper() in ("NO", "FALSE", "OFF", "0")
    root = environment.get("CPL_AWS_EC2_API_ROOT_URL", MACHINE_ROLES)
    return Credentials("the role of this machine") if (anywhere or _is_ec2()) and _has_machine_role(root) else None


def _is_on(value: str) -> bool:
    return value.upper() in ("YES", "TRUE", "ON", "1")


# --- endpoints ----------------------------------------------------------------------------------------------------


def _endpoint(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's own store, in GDAL's words or in those of the other AWS programs."""
    for name in ("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        value = environment.get(name, "").strip().rstrip("/")
        if not value:
            continue
        parts = urlsplit(value if "://" in value else f"//{value}")
        options = {"AWS_S3_ENDPOINT": f"{parts.netloc}{parts.path}"}
        if parts.scheme and "AWS_HTTPS" not in environment:
            options["AWS_HTTPS"] = "NO" if parts.scheme.lower() == "http" else "YES"
        if name != "AWS_S3_ENDPOINT" and "AWS_VIRTUAL_HOSTING" not in environment:
            options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # stores of one's own seldom have a name for each bucket
        return options
    return {}


# --- settings files -----------------------------------------------------------------------------------------------


def _settings_files(environment: Mapping[str, str], profile: str) -> list[tuple[Path, tuple[str, ...]]]:
    """The files of credentials and of configuration, each with the names that the profile's section may have there."""
    own = environment.get("CPL_AWS_CREDENTIALS_FILE") or environment.get("AWS_SHARED_CREDENTIALS_FILE")
    config = environment.get("AWS_CONFIG_FILE")
    folder = Path(environment.get("CPL_AWS_ROOT_DIR") or environment.get("HOME") or "/nonexistent", ".aws")
    return [
        (Path(own) if own else folder / "credentials", (profile,)),
        (Path(config) if config else folder / "config", (profile, f"profile {profile}")),
    ]


def _settings(path: Path, sections: tuple[str, ...]) -> frozenset[str]:
    try:
        state = path.stat()
    except OSError:
        return frozenset()
    return _names_of_settings(path, sections, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=16)
def _names_of_settings(path: Path, sections: tuple[str, ...], _time: int, _size: int) -> frozenset[str]:
    """Names of the settings in the given sections; values are not kept."""
    names: set[str] = set()
    inside = False
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                text = line.strip()
                if text.startswith("["):
                    inside = " ".join(text.strip("[]").split()) in sections
                elif inside and "=" in text and not text.startswith(("#", ";")):
                    names.add(text.partition("=")[0].strip().lower())
    except OSError:
        return frozenset()
    return frozenset(names)


# --- machines -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _is_ec2() -> bool:
    """As GDAL recognises a machine of AWS."""
    for path, beginning in (("/sys/devices/virtual/dmi/id/sys_vendor", "Amazon EC2"), ("/sys/hypervisor/uuid", "ec2")):
        try:
            if Path(path).read_text(encoding="ascii", errors="replace").startswith(beginning):
                return True
        except OSError:
            continue
    return False


@functools.lru_cache(maxsize=4)
def _has_machine_role(root: str) -> bool:
    """True if the machine's own service names a role; asked once in a process, and never through a proxy."""
    parts = urlsplit(root)
    folder = parts.path.rstrip("/")
    connection = http.client.HTTPConnection(parts.netloc, timeout=MACHINE_ROLE_WAIT_S)
    try:
        connection.request("PUT", f"{folder}/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        answer = connection.getresponse()
        token = answer.read(1024).decode("ascii", "replace").strip()
        headers = {"X-aws-ec2-metadata-token": token} if answer.status == 200 and token.isprintable() else {}
        connection.request("GET", f"{folder}/latest/meta-data/iam/security-credentials/", headers=headers)
        answer = connection.getresponse()
        return answer.status == 200 and bool(answer.read(1024).strip())
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
