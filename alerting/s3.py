"""How a server that speaks S3 is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from alerting.secret import Secret

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server that speaks S3. Credentials come from the usual AWS chain (environment, profile, role), never from
    here."""

    endpoint: Annotated[str | None, msgspec.Meta(description="URL of an S3-compatible server; default: AWS")] = None
    region: Annotated[str | None, msgspec.Meta(description="Region; default: of the AWS chain")] = None
    path_style: Annotated[
        bool,
        msgspec.Meta(description="Bucket in the path, not in the host's name; most servers other than AWS need it"),
    ] = False
    cafile: Annotated[str | None, msgspec.Meta(description="PEM file of the authority behind the server's TLS")] = None


class S3Access(S3Server, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server that speaks S3, and by what key."""

    key: Annotated[str, msgspec.Meta(description="Access key; empty: of the usual AWS chain")] = ""
    secret: Annotated[Secret, msgspec.Meta(description="Secret key that belongs to it")] = Secret("")


def s3_client(options: S3Server) -> S3Client:
    """A client that gives up within half a minute, so that a checkpoint never hangs on a server that went away."""
    import boto3
    from botocore.config import Config

    access = options if isinstance(options, S3Access) and options.key else None
    return boto3.client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=options.region,
        verify=options.cafile,
        aws_access_key_id=access.key if access else None,
        aws_secret_access_key=str(access.secret) if access else None,
        config=Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"max_attempts": 2, "mode": "standard"},
            signature_version="s3v4",
            s3={"addressing_style": "path" if options.path_style else "auto"},
            request_checksum_calculation="when_required",  # many servers refuse the newer default
            response_checksum_validation="when_required",
        ),
    )
