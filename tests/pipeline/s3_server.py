"""A small S3 on loopback that checks every signature (AWS Signature Version 4), with the services that lend keys.

Test support, not a test.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.pipeline.loopback_server import Request, Response, Server, file_answer, json_response, serve

ROLE = "arn:aws:iam::123456789012:role/reader"
_AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})")


@dataclass
class Store:
    """Buckets are the folders below ``root``; keys and tokens are what a request must be signed with."""

    root: Path
    keys: dict[str, str] = field(default_factory=lambda: {"AKIDTEST": "secret/of+the=test"})
    tokens: dict[str, str] = field(default_factory=dict)
    """Key id → session token that must come with it."""
    public: tuple[str, ...] = ("public",)
    requester_pays: tuple[str, ...] = ("payers",)
    server: Server = field(init=False)

    def answer(self, request: Request) -> Response:
        """As S3 answers, or STS, or the services of containers and machines."""
        if request.query.get("Action") == ["AssumeRoleWithWebIdentity"]:
            return self._assumed(request)
        if request.path == "/container":
            return json_response(self._lent("container") if request.headers.get("Authorization") == "tok" else {})
        if request.path == "/latest/api/token":
            return Response(200, b"metadata-token") if request.method == "PUT" else Response(405)
        if request.path.startswith("/latest/meta-data/iam/security-credentials"):
            role = request.path.rpartition("/")[2]
            return json_response({**self._lent("machine"), "Code": "Success"}) if role else Response(200, b"role-name")
        bucket = request.path.split("/")[1]
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "authorization" in headers:
            fault = self._fault(request, headers)
        else:
            fault = None if bucket in self.public else "AccessDenied"
        if fault is None and bucket in self.requester_pays and headers.get("x-amz-request-payer") != "requester":
            fault = "AccessDenied"
        if fault is not None:
            text = f'<?xml version="1.0"?><Error><Code>{fault}</Code><Message>{fault} it is</Message></Error>'
            return Response(403, text.encode(), {"Content-Type": "application/xml"})
        return file_answer(self.root, request)

    def _lent(self, who: str) -> dict[str, str]:
        key, secret, token = f"ASIA{who.upper()}", f"secret of the {who}", f"token-of-the-{who}"
        self.keys[key], self.tokens[key] = secret, token
        # So soon that GDAL, which remembers what it was lent, asks again in the next test.
        end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)
        return {
            "AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        }  # fmt: skip

    def _assumed(self, request: Request) -> Response:
        if request.query.get("WebIdentityToken") != ["identity"] or request.query.get("RoleArn") != [ROLE]:
            return Response(403)
        lent = self._lent("web")
        lent["SessionToken"] = lent.pop("Token")
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in lent.items())
        result = (
            f"<AssumeRoleWithWebIdentityResult><Credentials>{inner}</Credentials></AssumeRoleWithWebIdentityResult>"
        )
        return Response(
            200, f"<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>".encode()
        )

    def _fault(self, request: Request, headers: dict[str, str]) -> str | None:
        found = _AUTHORIZATION.fullmatch(headers["authorization"])
        if found is None:
            return "AuthorizationHeaderMalformed"
        key, day, region, service, end = found[1].split("/")
        if key not in self.keys:
            return "InvalidAccessKeyId"
        if self.tokens.get(key) != headers.get("x-amz-security-token"):
            return "InvalidToken"
        names = found[2].split(";")
        pairs = sorted((k, v) for k, values in request.query.items() for v in values)
        canonical = "\n".join(
            [
                request.method,
                request.path,
                "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs),
                *(f"{name}:{headers[name].strip()}" for name in names),
                "",
                found[2],
                headers["x-amz-content-sha256"],
            ]
        )
        scope = f"{day}/{region}/{service}/{end}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
        signing = f"AWS4{self.keys[key]}".encode()
        for part in (day, region, service, end):
            signing = hmac.digest(signing, part.encode(), "sha256")
        right = hmac.new(signing, text.encode(), "sha256").hexdigest()
        return None if hmac.compare_digest(right, found[3]) else "SignatureDoesNotMatch"


@contextmanager
def s3_store(root: Path) -> Iterator[Store]:
    """Serves a store until the block ends."""
    store = Store(root)
    with serve(store.answer) as server:
        store.server = server
        yield store
