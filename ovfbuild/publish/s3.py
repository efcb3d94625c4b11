"""An S3-compatible store: AWS, MinIO, Ceph, Garage, SeaweedFS. Credentials are boto3's own affair.

A large file goes up in parts (Amazon S3 User Guide, Multipart upload): nobody sees it before CompleteMultipartUpload,
and what a killed run left is listed by the server, so the next one goes on after the last part that came. Each part is
sent with its MD5, which the server compares; the whole has the MD5 of the parts' MD5s as its ETag, everywhere but
where the store encrypts with keys of its own, and is then compared by size.

Several parts are on their way at once, each on a connection of its own: one alone waits for the line's latency at its
begin and its end, and gets one connection's share of the rate. What is read of the file, and told to the meter, stays
in one thread and in order.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets as tokens
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

import boto3
import urllib3
from botocore import exceptions as errors
from botocore.config import Config

from ovfbuild.errors import FileError, PublishError, UsageError
from ovfbuild.publish.catalogue import CatalogueCloud, Piece
from ovfbuild.publish.cloud import Cloud, Standing, Surroundings
from ovfbuild.publish.meter import PIECE, Meter
from ovfbuild.spec.targets import S3Target
from ovfbuild.tries import TryAgain
from ovfbuild.vm.fetch import distrusted, reason

_T = TypeVar("_T")
_SMALLEST_PART = 8 << 20
"""Bytes; what an upload needs of memory is those that are on their way, and one."""
_MOST_PARTS = 9000
"""S3 takes 10 000."""
_PASSING = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "NoSuchUpload"}
_OVER = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
_HINTS = {
    "AccessDenied": "give this key the rights to get, put, list and delete there (s3:ListBucketMultipartUploads, too)",
    "403": "check the credentials; they need the rights to get, put, list and delete there",
    "InvalidAccessKeyId": "check the credentials: aws sts get-caller-identity, or the target's profile",
    "SignatureDoesNotMatch": "check the credentials: the secret is not that of the access key",
    "NoSuchBucket": "make the bucket, or mend bucket of the target",
    "RequestTimeTooSkewed": "set this machine's clock",
}


@contextmanager
def connect(target: S3Target, around: Surroundings) -> Iterator[Cloud]:
    """See `clouds.connect`."""
    if target.insecure:
        around.progress.warn(f"{target.name}: insecure = true, so any certificate is believed")
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    bucket = _Bucket(target, around)
    try:
        yield CatalogueCloud(bucket)
    finally:
        bucket.close()


@dataclass(frozen=True)
class _Part:
    """A part that is there. `md5` is of what was read, in hex; `tag` is what the store calls it."""

    number: int
    size: int
    md5: str
    tag: str


class _Bucket:
    """A prefix of a bucket, as a `catalogue.Store`."""

    resumes = True

    def __init__(self, target: S3Target, around: Surroundings) -> None:
        self._target = target
        self._around = around
        self._client: Any = None
        self._tags: dict[str, str] = {}
        """By path, the ETag that what was sent should have."""
        self._connecting = threading.Lock()
        """A client is for all threads, but made and closed by one."""
        self._prefix = f"{target.prefix.strip('/')}/" if target.prefix.strip("/") else ""

    def close(self) -> None:
        """Connections on which something is on its way end when it has arrived."""
        with self._connecting:
            if self._client is not None:
                self._client.close()
                self._client = None

    def url(self, path: str) -> str:
        target = self._target
        if target.public_url:
            return f"{target.public_url.rstrip('/')}/{quote(path)}"
        if target.endpoint:
            return f"{target.endpoint.rstrip('/')}/{target.bucket}/{quote(self._prefix + path)}"
        return f"s3://{target.bucket}/{self._prefix}{path}"

    def read(self, path: str) -> bytes | None:
        answer = self._call("get_object", path, missing_is_fine=True)
        if answer is None:
            return None
        try:
            octets: bytes = answer["Body"].read()
        except errors.HTTPClientError as error:
            raise TryAgain(f"{self._where}: {reason(error)}") from None
        return octets

    def write(self, path: str, octets: bytes, media_type: str) -> None:
        self._call("put_object", path, Body=octets, ContentMD5=_md5(octets)[1], ContentType=media_type)

    def upload(self, piece: Piece, meter: Meter) -> None:
        size, whole = _part_size(piece.size), hashlib.sha256()
        begun = next(reversed(self._begun(piece.path)), None)
        number = begun or self._call("create_multipart_upload", piece.path, ContentType=piece.media_type)["UploadId"]
        there = self._parts(piece.path, number) if begun else {}

        def send(at: int, octets: bytes) -> _Part:
            digest, encoded = _md5(octets)
            tag = f'"{digest}"'
            if there.get(at) != digest:
                named: dict[str, Any] = {"UploadId": number, "PartNumber": at}
                tag = self._call("upload_part", piece.path, **named, Body=octets, ContentMD5=encoded)["ETag"]
            return _Part(at, len(octets), digest, tag)

        done: list[_Part] = []
        with piece.source.open("rb") as stream:
            parts = enumerate(_hashed(_cut(stream, piece.size, size), whole), 1)
            with closing(_side_by_side(send, parts, self._target.parallel)) as sent:  # nothing is on its way after it
                for part in sent:
                    meter.add(part.size)
                    done.append(part)
        if whole.hexdigest() != piece.sha256:
            raise FileError(f"{piece.source} was changed while it was read", "let nothing write to it")
        done.sort(key=lambda part: part.number)
        self._tags[piece.path] = _whole_tag(done)
        told = {"Parts": [{"PartNumber": part.number, "ETag": part.tag} for part in done]}
        self._call("complete_multipart_upload", piece.path, UploadId=number, MultipartUpload=told)

    def compare(self, piece: Piece) -> None:
        answer = self._call("head_object", piece.path, missing_is_fine=True)
        if answer is None or answer["ContentLength"] != piece.size:
            came = answer["ContentLength"] if answer else "none"
            raise TryAgain(f"{self.url(piece.path)}: {came} of {piece.size} bytes arrived")
        tag = answer["ETag"].strip('"')
        wanted = self._tags.get(piece.path, "")
        # A store that made other parts of it, or encrypts it, has another tag: then the size has to do.
        comparable = re.fullmatch(r"[0-9a-f]{32}-\d+", tag) and tag.partition("-")[2] == wanted.partition("-")[2]
        if comparable and tag != wanted and not _encrypted(answer):
            raise TryAgain(f"{self.url(piece.path)} arrived with the ETag {tag}, not {wanted}")

    def remove(self, path: str) -> None:
        for number in self._begun(path):
            self._call("abort_multipart_upload", path, UploadId=number)
        self._call("delete_object", path)

    def remove_folder(self, path: str) -> None:
        """There are none."""

    def standing(self, *, write: bool) -> Standing:
        answer = self._call("head_bucket", "")
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        if write:
            probe = f".ovfbuild-{tokens.token_hex(8)}"
            self.write(probe, b"ovfbuild asks whether it may write here\n", "text/plain")
            self._call("delete_object", probe)
            self._begun(probe)  # whether uploads may be listed
        server = f"{headers.get('server', 'a store')} at {self._where}, bucket {self._target.bucket}"
        return Standing(server, None, ("a store tells no free space",))

    def _begun(self, path: str) -> list[str]:
        """The ids of uploads in parts that were begun and not ended, the newest last."""
        answer = self._call("list_multipart_uploads", "", Prefix=self._prefix + path)
        return [str(one["UploadId"]) for one in answer.get("Uploads", ()) if one["Key"] == self._prefix + path]

    def _parts(self, path: str, number: str) -> dict[int, str]:
        """The MD5 of each part that arrived, in hex."""
        found: dict[int, str] = {}
        after = 0
        while True:
            answer = self._call("list_parts", path, UploadId=number, PartNumberMarker=after)
            found |= {one["PartNumber"]: one["ETag"].strip('"') for one in answer.get("Parts", ())}
            if not answer.get("IsTruncated"):
                return found
            after = answer["NextPartNumberMarker"]

    # --- calls ---

    @property
    def _where(self) -> str:
        return urlsplit(self._target.endpoint).netloc if self._target.endpoint else "AWS"

    def _connected(self) -> Any:
        """The client, made again after a token was over, so that the new one is read."""
        with self._connecting:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> Any:
        target = self._target
        session = boto3.session.Session(profile_name=target.profile, region_name=target.region)
        found = session.get_credentials()
        if found is None:
            raise UsageError(
                f"target {target.name}: boto3 finds no credentials",
                "write them where the AWS client has them (aws configure), and name the target's profile",
            )
        frozen = found.get_frozen_credentials()
        for one in (frozen.secret_key, frozen.token):
            self._around.secrets.keep(one or "")
        return session.client(
            "s3",
            endpoint_url=target.endpoint,
            region_name=session.region_name or "us-east-1",
            verify=False if target.insecure else (str(target.ca_file) if target.ca_file else None),
            config=Config(
                connect_timeout=min(15, target.timeout),
                read_timeout=target.timeout,
                max_pool_connections=target.parallel,
                retries={"total_max_attempts": 1},  # delivery does it
                # Newer boto3s send CRCs in trailers, which stores other than AWS refuse; parts have their MD5.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def _call(self, name: str, path: str, *, missing_is_fine: bool = False, **more: Any) -> Any:
        """What the store answers; None for what is missing, where that is fine. Raises TryAgain, PublishError."""
        named: dict[str, Any] = {"Bucket": self._target.bucket, **({"Key": self._prefix + path} if path else {})}
        try:
            call: Callable[..., Any] = getattr(self._connected(), name)
            return call(**named, **more)
        except errors.ClientError as error:
            if missing_is_fine and error.response["Error"]["Code"] in _MISSING:
                return None
            raise self._refusal(error, name, path) from None
        except (errors.HTTPClientError, errors.ConnectionError) as error:
            if distrusted(error):
                raise PublishError(
                    f"{self._where} has no certificate that is trusted here: {reason(error)}",
                    "for a private authority, set ca_file of the target to its certificates",
                ) from None
            raise TryAgain(f"{self._where} can't be reached: {reason(error)}") from None
        except errors.BotoCoreError as error:
            hint = "check the credentials and the profile of the target"
            raise PublishError(f"{self._where}: {error}", hint) from None

    def _refusal(self, error: Any, name: str, path: str) -> TryAgain | PublishError:
        said, status = error.response["Error"], error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        code = said["Code"]
        what = f"{self.url(path)}: {name}: {code} {said.get('Message', '')}".rstrip()
        if code in _OVER:
            self.close()
            return TryAgain(f"{what}; asking for credentials again")
        if code in _PASSING or (status >= 500 and status not in (501, 507)):
            return TryAgain(what)
        if status == 507 or "Full" in code or "Quota" in code:
            return PublishError(what, "make room there, or raise the quota")
        named = {"404": "NoSuchBucket"}.get(code, code)
        return PublishError(what, _HINTS.get(named, "check bucket, endpoint and region of the target"))


def _part_size(size: int) -> int:
    return max(_SMALLEST_PART, -(-size // _MOST_PARTS + PIECE - 1) // PIECE * PIECE)


def _cut(stream: BinaryIO, size: int, part: int) -> Iterator[bytes]:
    """A file in parts."""
    for _ in range(0, size, part):
        yield stream.read(part)


def _hashed(parts: Iterator[bytes], running: Any) -> Iterator[bytes]:
    """The same parts, each of which went into a hash."""
    for octets in parts:
        running.update(octets)
        yield octets


def _side_by_side(
    step: Callable[[int, bytes], _T], parts: Iterator[tuple[int, bytes]], lanes: int
) -> Generator[_T, None, None]:
    """What a step returns for each part, as they are done; `lanes` are on their way, and one more is read.

    The first that fails ends it: no other begins, and what is on its way is waited for, since a part that arrives
    after its upload was aborted would stay (Amazon S3 API, AbortMultipartUpload).
    """
    with ThreadPoolExecutor(lanes) as pool:
        running: set[Future[_T]] = set()
        for at, octets in parts:
            if len(running) == lanes:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
            running.add(pool.submit(step, at, octets))
        yield from (one.result() for one in as_completed(running))


def _md5(octets: bytes) -> tuple[str, str]:
    """In hex, and in base64, as Content-MD5 has it. No secret hangs on it."""
    raw = hashlib.md5(octets, usedforsecurity=False).digest()
    return raw.hex(), base64.b64encode(raw).decode()


def _whole_tag(parts: Sequence[_Part]) -> str:
    """The ETag of a file that came in parts: the MD5 of its parts' MD5s, and how many they are."""
    return f"{_md5(b''.join(bytes.fromhex(part.md5) for part in parts))[0]}-{len(parts)}"


def _encrypted(answer: Any) -> bool:
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
