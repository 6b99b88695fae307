"""Text without credentials, for logs that leave a machine.

What looks like a credential is hidden: tokens of ours, bearer tokens, keys in PEM, secrets of webhooks, passwords in
URLs, and the value of whatever is called token, password, secret or key.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bel[dn]?1\.[\w.~+/=-]+"
    r"|\bwhsec_[\w+/=-]+"
    r"|\beyJ[\w-]+\.[\w.-]+"
    r"|(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{4,}"
    r"|(?<=://)[^/\s]+(?=@)",
    re.DOTALL,
)
_NAMED = re.compile(
    r"""(?ix) ( (?: (?: token | passw(?:or)?d | passphrase | secret | credential | amz-signature ) [\w-]{0,32}
    | (?: \b | _ ) (?: api)? key \b ) \\?["']? \s{0,4} [=:] \s{0,4} )
    ( "(?: [^"\\] | \\. )*" | '(?: [^'\\] | \\. )*' | [^\s,;&]+ )"""
)  # bounded everywhere: who makes an agent log something long must not make it slow


def hidden(text: str) -> str:
    """The text without what looks like a credential."""
    return _NAMED.sub(rf"\1{HIDDEN}", _SECRETS.sub(HIDDEN, text))
