"""Secrets kept out of all that is written down: what the environment holds, and what looks like a token anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote

from golf_core import strict_json

LEAST = 6
"""Characters of the shortest secret: a shorter one would be found inside ordinary words."""
REDACTED = "[redacted]"
_LONG_LINE = 16
"""A line this long, of a secret of several lines, is a secret of its own: logs are written line by line."""
_LONG_NUMBER = 16
_LONG_USER = 16
"""A user's name this long in an address, without a password, is a token."""
_DIGESTS = (40, 64)
"""Hexadecimal digits of git's and SHA-256's digests."""

# Names are compared in upper case, with one underscore between words.
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|JWT|(?:API|ACCESS|PRIVATE|AUTH|SIGNING|SSH)_?KEY"
    r"|(?:^|_)(?:AUTH|AUTHORIZATION|COOKIE|PASS|PAT)(?:_|$)|_PWD$|_(?:ENCRYPTION|ACCOUNT|STORAGE|DEPLOY)_KEY$"
)
_DESCRIBES = re.compile(
    r"_(?:MODE|TYPE|METHOD|FILE|PATH|DIR|FOLDER|SOCK|SOCKET|HOST|PORT|PROTO|ADDR|TCP|ENABLED|DISABLED|TIMEOUT|TTL|NAME"
    r"|EXPIRY|EXPIRES|LIFETIME|SECONDS|LIMIT|LENGTH|COUNT|PROVIDER|REGION|VERSION|REQUIRED|HELPER)$"
)
"""Ends of names whose values say something about a secret."""
_WORDS = (
    "true false yes no on off none null nil undefined unset default auto enabled disabled required optional anonymous "
    "inherit implicit explicit token tokens basic bearer digest kerberos negotiate oauth oauth2 ldap saml munge jwt "
    "password passwd secret static dynamic local remote strict permissive redacted"
)
"""Names of modes."""
_NUMBER = re.compile(r"[-+]?[\d_,.]+(?:[eE][-+]?\d+)?[a-zA-Z%]?", re.ASCII)
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)[/\\][\w./\\@ +-]*|/[\w.@ +-]+(?:/[\w.@ +-]*)+", re.ASCII)
_MIXED = re.compile(r"(?=[^/]*[a-z])(?=[^/]*[A-Z])(?=[^/]*\d)[^/]{16,}", re.ASCII)
_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://[a-zA-Z0-9.-]+|\d{1,3}(?:\.\d{1,3}){3}|localhost)(?::\d+)?/?", re.ASCII)
_USER = re.compile(r"://([^\s/?#]{1,2000})@")
_FIELD = re.compile(r"(?:token|passw(?:or)?d|secret|api_?key|signature)=([^&\s;\"']+)", re.IGNORECASE)

# A look-behind stands after the first letters, so that the search skips to those without trying every place.
_SHAPES = (
    r"hf_(?<![A-Za-z0-9]hf_)[A-Za-z0-9]{20,}",
    r"gh[pousr]_(?<![A-Za-z0-9]gh._)[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"A(?:K|S)IA(?<![A-Za-z0-9]A.IA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    r"AIza(?<![A-Za-z0-9]AIza)[A-Za-z0-9_-]{35}",
    r"sk-(?<![A-Za-z0-9_-]sk-)(?=[A-Za-z_-]{0,200}\d)(?=[a-z0-9_-]{0,200}[A-Z])[A-Za-z0-9_-]{20,}",
    r"xox[abeprs]-[A-Za-z0-9-]{10,}",
    r"dapi(?<![A-Za-z0-9]dapi)[0-9a-f]{32}(?![A-Za-z0-9])",
    r"[Bb]earer (?=[A-Za-z._~+/=-]{0,200}\d)[A-Za-z0-9._~+/=-]{16,}",
    r"[Aa]uthorization[\"']?: ?[\"']?[Bb]asic [A-Za-z0-9+/=]{8,}",
    r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\:,]{0,20000}+-----END [A-Z ]{0,30}PRIVATE KEY-----",
    r"://[^\s/@:\"'<>\[\]]{0,100}:[^\s/@\"'<>]{1,200}@",
)
"""Tokens of well-known services, private keys, and users with their passwords in addresses."""

R = TypeVar("R")


@dataclass(frozen=True)
class Redactor:
    """Replaces secrets by `[redacted NAME]`. Make one with `from_environment` where the process begins."""

    _pattern: re.Pattern[str] = field(repr=False)
    _names: Mapping[str, str] = field(repr=False)
    """Every form in which a secret may be written, with the name of its variable."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Redactor:
        """What knows the secrets of `environ`, and the shapes of well-known tokens whatever is in it."""
        secrets: dict[str, str] = {}
        for name in sorted(environ):
            for secret in _secrets_of(name, environ[name]):
                secrets.setdefault(secret, name)
        names = {written: name for secret, name in secrets.items() for written in _forms(secret)}
        names |= secrets  # of two variables, the one whose own value this is
        return cls(re.compile("|".join([*_literals(names), *_SHAPES])), names)

    def redact(self, text: str) -> str:
        """`text` without secrets; text that holds none is returned as it is."""
        return self._pattern.sub(self._replacement, text)

    def redact_value(self, value: Any) -> Any:
        """A JSON value with the texts in it redacted, those in lists and mappings too; keys are kept."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, bytes):
            return self.redact_bytes(value)
        if isinstance(value, Mapping):
            return {key: self.redact_value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self.redact_value(item) for item in value])
        return value

    def redact_bytes(self, content: bytes) -> bytes:
        """Text in UTF-8, or nearly, without secrets; all other bytes stay as they are."""
        return self.redact(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def variable_in(self, content: bytes) -> str | None:
        """The name of a variable whose secret occurs in `content`, for files that may not be changed."""
        found = (name for written, name in self._names.items() if _bytes(written) in content)
        return next(found, None)

    def _replacement(self, found: re.Match[str]) -> str:
        secret = found.group()
        name = self._names.get(secret)
        if name is None:
            return f"://{REDACTED}@" if secret.startswith("://") else "[redacted token]"
        if _in_digest(found):
            return secret
        marker = f"[redacted {name}]"
        # A variable may have a value that its own name, or another's, holds.
        return REDACTED if any(written in marker for written in self._names) else marker


def _secrets_of(name: str, value: str) -> Iterator[str]:
    """What is secret in a variable: all of it, by its name; passwords in addresses, whatever the name."""
    value = value.strip()
    plain_name = re.sub(r"[^A-Z0-9]+", "_", name.upper())
    if _SECRET_NAME.search(plain_name) and not _DESCRIBES.search(plain_name):
        parts = [value, *(line.strip() for line in value.splitlines()[:1000])] if "\n" in value else [value]
        for part in parts:
            if not _trivial(part) and (part == value or (len(part) >= _LONG_LINE and not part.startswith("-----"))):
                yield part
    for found in _USER.finditer(value):
        user, _, password = found[1].partition(":")
        for part in (password, unquote(password)) if password else (user, unquote(user)):
            if not _trivial(part) and (password or len(part) >= _LONG_USER):
                yield part
    for found in _FIELD.finditer(value):
        for part in (found[1], unquote(found[1])):
            if not _trivial(part):
                yield part


def _trivial(value: str) -> bool:
    """Whether this is no secret: short, a mode, a number, a plain path or the address of a host."""
    if len(value) < LEAST or value.lower() in _WORDS.split() or value in REDACTED or not value.strip():
        return True
    if len(value) < _LONG_NUMBER and _NUMBER.fullmatch(value):
        return True
    if len(value) > 4096:
        return False
    if _PATH.fullmatch(value):
        return not any(_MIXED.fullmatch(part) for part in value.split("/"))  # Base64 may begin with a slash
    return _HOST.fullmatch(value) is not None


def _literals(texts: Iterable[str]) -> Iterator[str]:
    """Patterns that find the longest of `texts` at each place; grouped by their beginning, which is much faster."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    groups: dict[str, dict[str, list[str]]] = {}
    for text in longest_first:
        groups.setdefault(text[0], {}).setdefault(text[:3], []).append(re.escape(text[3:]))
    for first, inner in groups.items():
        rests = [f"{re.escape(begin[1:])}(?:{'|'.join(ends)})" for begin, ends in inner.items()]
        yield f"{re.escape(first)}(?:{'|'.join(rests)})"


def _forms(secret: str) -> Iterator[str]:
    """The secret as text, addresses, JSON and Python's own messages write it."""
    yield secret
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    for encoded in (
        quote(secret, safe="", errors="surrogateescape"),
        quote(secret, errors="surrogateescape"),
        quote_plus(secret, errors="surrogateescape"),
    ):
        yield encoded
        yield re.sub(r"%[0-9A-F]{2}", lambda found: found.group().lower(), encoded)


def _in_digest(found: re.Match[str]) -> bool:
    """Whether a short match is a part of a digest by chance."""
    if len(found.group()) >= min(_DIGESTS) - 8 or not re.fullmatch(r"[0-9a-f]+", found.group()):
        return False
    text, begin, end = found.string, found.start(), found.end()
    digits = "0123456789abcdef"
    while begin > 0 and text[begin - 1] in digits and end - begin <= max(_DIGESTS):
        begin -= 1
    while end < len(text) and text[end] in digits and end - begin <= max(_DIGESTS):
        end += 1
    return end - begin in _DIGESTS


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def save_redacted(record: Any, redactor: Redactor, path: Path) -> None:
    """Write a result to `path` as `strict_json.save` does, without secrets in its texts."""
    strict_json.save(redactor.redact_value(strict_json.to_dict(record)), path)


def redacted(record: R, redactor: Redactor, where: Path) -> R:
    """A result or data record without secrets in its texts; `where` it was read from, for messages."""
    return strict_json.from_dict(type(record), redactor.redact_value(strict_json.to_dict(record)), where=str(where))
