"""The page of a server: one file, whose script and style are named by their digests."""

import base64
import hashlib
import re
from pathlib import Path


def _source(kind: str, html: str) -> str:
    """The digest of the one inline script or style, as a source of Content-Security-Policy."""
    (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


_TEXT = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
# Only what the file itself holds runs, and it talks to this server alone.
_POLICY = (
    f"default-src 'none'; script-src {_source('script', _TEXT)}; "
    f"style-src {_source('style', _TEXT)}; connect-src 'self'; img-src data:; "
    f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HTML = _TEXT.encode()
HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-length", b"%d" % len(HTML)),
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
