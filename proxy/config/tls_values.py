"""From the text of one scalar to a setting of TLS. See `values` for the parsers' promise."""

import ssl

from proxy.config.faults import BadValue
from proxy.config.values import scalar_text

# Below, a suite counts as broken (RFC 9325 4.1: no NULL, no export, no RC4, nothing under 112 bits).
_LEAST_BITS = 128


def parse_ciphers(value: object) -> str:
    """A list of TLS 1.2 suites that OpenSSL understands and that encrypt and authenticate."""
    expected = "suites in OpenSSL's notation, such as ECDHE+AESGCM"
    text = scalar_text(value, expected)
    if "@" in text:
        raise BadValue("changes OpenSSL's security level", expected)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(str(text))
    except (ssl.SSLError, ValueError) as error:
        raise BadValue("names no suite that is known", expected) from error
    for suite in context.get_ciphers():
        if suite["strength_bits"] < _LEAST_BITS or suite.get("auth") == "auth-null":
            raise BadValue(f"has the weak suite {suite['name']}", "suites that encrypt and authenticate")
    return str(text)
