"""An S3 server: moto. It accepts any secret, so it proves nothing about credentials."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tests.services.process import Server, free_port
from tests.services.web import ask

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3(Server):
    """Keeps everything in memory: a restart empties it."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key, self.secret, self.region = "testing", "testing", "us-east-1"
        super().__init__(
            "s3",
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            directory=directory,
            ready=lambda: bool(ask(f"{self.url}/moto-api/")),
        )

    def client(self) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 2},
                connect_timeout=5,
                read_timeout=10,
            ),
        )
