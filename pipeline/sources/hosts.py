"""Which hosts and network addresses are public: the part of the rules of hrefs that knows names and numbers."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult

from pipeline.errors import HrefError

_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_-])?")
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
_PRIVATE_ENDINGS = (".localhost", ".localdomain", ".local", ".internal", ".intranet", ".lan", ".home.arpa")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16"), ipaddress.ip_address("192.0.0.192")})
"""Services of clouds to their own machines at addresses that are public by their number (Azure, Oracle)."""
_NAT64 = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
"""IPv6 networks whose last 32 bits are an IPv4 address."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_name(parts: SplitResult) -> str:
    """The host of a URL in lower case, without a trailing dot; "" where it has none.

    Raises:
        HrefError: It is no name and no address in its plain spelling: IPv4 addresses as one number, in octal or
            hexadecimal mean different hosts to different programs, and letters beyond ASCII may look like others.
    """
    host = (parts.hostname or "").removesuffix(".").lower()
    address = _address(host)
    if "[" in parts.netloc and not isinstance(address, ipaddress.IPv6Address):
        raise HrefError(f"{host[:100]!r} is not an IPv6 address")
    if not host or address is not None:
        return host
    if not _NAME.fullmatch(host) or ".." in host:
        raise HrefError(f"{host[:100]!r} is not the name of a host")
    last = host.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        raise HrefError(f"{host[:100]!r} is not an IP address in its plain spelling")
    return host


def port_number(parts: SplitResult) -> int | None:
    """The port of a URL, its scheme's own where it has none."""
    return parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme.lower())


def same_server(one: SplitResult, other: SplitResult) -> bool:
    """True if a URL is on the server of another: scheme, host and port agree, or only encryption is added."""
    if host_name(one) != host_name(other):
        return False
    same = one.scheme.lower() == other.scheme.lower() and port_number(one) == port_number(other)
    return same or (other.scheme.lower() == "http" and one.scheme.lower() == "https" and port_number(one) == 443)


def is_this_machine(host: str) -> bool:
    """True for a loopback address and the names of this machine that every machine has."""
    address = _address(host)
    if address is None:
        return host in _LOOPBACK_NAMES or host.endswith(".localhost")
    return any(seen.is_loopback for seen in _meanings(address))


def is_public_name(host: str) -> bool:
    """True if a host may be public by its name; what it resolves to is seen when it is connected to."""
    address = _address(host)
    if address is not None:
        return _is_public(address)
    # A name without a dot is never one of the public DNS.
    return "." in host and not is_this_machine(host) and not host.endswith(_PRIVATE_ENDINGS)


def is_public_address(address: str) -> bool:
    """True for an IP address that is not of this machine, a private network, a link, a group or a cloud's metadata."""
    parsed = _address(address)
    return parsed is not None and _is_public(parsed)


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_public(address: _Address) -> bool:
    return all(
        seen.is_global and not seen.is_multicast and not getattr(seen, "is_site_local", False) and seen not in _METADATA
        for seen in _meanings(address)
    )


def _meanings(address: _Address) -> list[_Address]:
    """The address, and the IPv4 addresses that translators and tunnels make of it."""
    found: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found += address.teredo
        if any(address in network for network in _NAT64) and int(address) > 1:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
