"""Addresses (https://, s3://) where a page may have paths: how they are told, and how they are shown."""

from __future__ import annotations

import re

PASSWORD = re.compile(r"://[^/\s@'\"]+@")
# Up to what ends it in a text or on a page: a space, a quote, `::`, and signs of YAML before these.
QUERY = re.compile(r"(://[^\s'\"?]*)\?(?:(?!::)[^\s'\"])+?(?=[,}\])]*(?:[\s'\"]|::|$))")


def is_address(path: str) -> bool:
    """Whether a path of a page is an address to fetch from, and no place on this machine."""
    return "://" in path


def masked(text: str) -> str:
    """A text with the passwords and queries of the addresses in it blotted out: signed addresses are secrets too."""
    return QUERY.sub(r"\1?***", PASSWORD.sub("://***@", text))


__all__ = ["is_address", "masked"]
