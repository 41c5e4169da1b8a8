"""``ssh://user@host:port?python=/usr/bin/python3``: where a device is, and its interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from edgevision.errors import UsageError

_FORM = "ssh://user@host[:port][?python=INTERPRETER]"


@dataclass(frozen=True)
class Address:
    """A device. What is None comes from the user's SSH configuration, else from SSH's defaults."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Out of ``text``, the value of ``--device``.

        Raises:
            UsageError: it is no such address.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
            query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        except ValueError as error:
            raise UsageError(f"Device '{text}': {error}; wanted: {_FORM}.") from error
        if parts.scheme != "ssh" or not parts.hostname or parts.path not in ("", "/"):
            raise UsageError(f"Device '{text}' is no address; wanted: {_FORM}.")
        if parts.password is not None:
            raise UsageError(
                f"Device '{parts.hostname}': a password does not belong into the address.",
                hint=f"Use a key: ssh-copy-id {parts.username}@{parts.hostname}",
            )
        if unknown := sorted(set(query) - {"python"}):
            raise UsageError(f"Device '{text}': unknown '{unknown[0]}'; wanted: {_FORM}.")
        user = unquote(parts.username) if parts.username else None
        # Of the text itself: ``hostname`` has no capitals, names in an SSH configuration may.
        start = text.lower().find(
            parts.hostname, len("ssh://") + len(parts.netloc.rpartition("@")[0])
        )
        host = text[start : start + len(parts.hostname)]
        return cls(host, user, port, query.get("python", ["python3"])[0])

    def command(self, program: str) -> str:
        """The command that makes ``program``, ssh or ssh-copy-id, go there."""
        port = f"-p {self.port} " if self.port else ""
        return f"{program} {port}{self.user + '@' if self.user else ''}{self.host}"

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{self.host}{port}"
