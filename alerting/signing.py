"""Signatures of what we post, as Standard Webhooks has them, so that receivers verify them with its libraries."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence

from alerting.secret import Secret

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes of a key, as the standard wants them


class Signer:
    """Signs posts with every secret, as two are good while one replaces the other.

    A secret is `whsec_` and the base64 of 24 to 64 random bytes; ValueError for anything else.
    """

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self._keys = [_key(secret) for secret in secrets]

    def headers(self, id: str, body: bytes, now: float | None = None) -> dict[str, str]:  # noqa: A002 the standard's word
        """What a post with this body carries; nothing without a secret. The time is that of the attempt, so a receiver
        can refuse what somebody recorded and plays again; `now` in UTC seconds, by default the clock.

        >>> signer = Signer([Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")])
        >>> signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330)["webhook-signature"]
        'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
        """
        if not self._keys:
            return {}
        at = str(int(time.time() if now is None else now))
        signed = b".".join((id.encode(), at.encode(), body))
        signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self._keys)
        return {
            "webhook-id": id,
            "webhook-timestamp": at,
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def _key(secret: Secret) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else b""
    except binascii.Error:
        key = b""
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError("a signing secret is whsec_ and the base64 of 24 to 64 random bytes: openssl rand -base64 32")
    return key
