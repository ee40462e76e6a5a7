"""Every limit on size, count, depth and time that strangers' input meets, in one place.

    sender ──TransportLimits, MessageLimits, ServiceLimits──▶ gateway ──▶ worker ──BundleLimits,
    ReadLimits──▶ series ──▶ result ──BundleLimits (RESULT)──▶ sender

Operators change a few of them by settings; the classes here are built from those. The limits of
single fields stand in the proto file, which senders compile; ``MessageLimits`` repeats them, and a
test holds the two together. ``tests/unit/test_limits.py`` tries each at the limit and beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = (
    "RESULT",
    "AccessLimits",
    "BundleLimits",
    "MessageLimits",
    "ReadLimits",
    "ServiceLimits",
    "StudyLimits",
    "TransportLimits",
)


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """What a bundle may hold.

    Attributes:
        max_bytes: The whole stream; a study is held in memory once while it is opened.
        max_files: A whole-body CT has about 3,000 instances, a 4D one 15,000.
        max_file_bytes: One file; ustar itself ends at 8 GiB.
        max_name_chars: Of a file; what a ustar header holds.
        max_padding_bytes: Zeros after the last file; tar writers fill records of 10 KiB, some 64.
    """

    max_bytes: int = 4 << 30
    max_files: int = 20_000
    max_file_bytes: int = 4 << 30
    max_name_chars: int = 100
    max_padding_bytes: int = 64 << 10


RESULT = BundleLimits(max_bytes=1 << 30, max_files=2_000, max_file_bytes=1 << 30)
"""What a sender takes as a result: a DICOM SEG a series, a report; memory is given at once."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one study may ask of the DICOM reader; each is checked before its memory is taken.

    Attributes:
        max_files: Instances of a study; as many as a bundle may hold.
        max_file_bytes: One file, and what a deflated file may inflate to. Readers in use cannot
            take values beyond 2 GiB.
        max_series: Series of a study; an examination has up to about 100.
        max_elements: Data elements of one file, those in sequences included: 60 for each of 8,192
            frames; they take about 2 s to parse.
        max_depth: Sequences within sequences. Image objects use up to 5, structured reports 12.
        max_private_groups: Private groups (PS3.5 7.8) of one file; vendors use up to about 20.
        max_fragments: Fragments of encapsulated pixel data of one file: eight a frame.
        max_text_bytes: Value of one attribute that is kept as text. The longest value that an
            explicit VR with a short length can hold; LT has 10,240 characters (PS3.5 6.2).
        max_uid_chars: Of a UID (PS3.5 9.1).
        max_side: Rows, and columns, of an image; mammography has about 6,000.
        max_frames: Slices of one series, and frames of one instance.
        max_pixel_bytes: Decoded pixel data of the whole study; reading takes about twice as much.
        max_expansion: Times the whole study's deflated bytes, or encoded pixel bytes, may grow.
            Lossless images grow 2 to 10 times, lossy ones up to 100; bombs 1,000 times.
        free_expansion_bytes: What may be made of however few bytes, once per study: a blank image
            compresses to nothing.
    """

    max_files: int = 20_000
    max_file_bytes: int = (2 << 30) - 1
    max_series: int = 1_000
    max_elements: int = 500_000
    max_depth: int = 16
    max_private_groups: int = 256
    max_fragments: int = 65_536
    max_text_bytes: int = 65_534
    max_uid_chars: int = 64
    max_side: int = 8192
    max_frames: int = 8192
    max_pixel_bytes: int = 2 << 30
    max_expansion: int = 200
    free_expansion_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class StudyLimits:
    """What one study may ask of a worker."""

    bundle: BundleLimits = BundleLimits()
    read: ReadLimits = ReadLimits()


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What senders may ask of a gateway.

    Attributes:
        max_study_bytes: Largest plaintext of one study.
        max_unfinished_jobs: Jobs of all tenants that wait or run, before the answer is "full".
        max_unfinished_bytes: Bytes of their studies, uploads under way included.
        max_uploads: Uploads at one time; each holds about 14 MiB of memory while the store is slow.
        max_calls_per_tenant: Calls of one tenant at one time, so that none takes every place.
        max_watches: WatchJob calls at one time.
        chunk_timeout_s: Longest silence within an upload, and wait for a request to come.
        min_upload_bytes_per_s: Slowest upload that is waited for, after ``chunk_timeout_s``.
        watch_interval_s: Between two looks at a watched job, at most.
        queue_timeout_s: Longest wait for the queue's hint; the reconciler mends what is missed.
        retry_after_s: What a sender is told when something is full.
    """

    max_study_bytes: int = 4 << 30
    max_unfinished_jobs: int = 10_000
    max_unfinished_bytes: int = 1 << 40
    max_uploads: int = 6
    max_calls_per_tenant: int = 100
    max_watches: int = 64
    chunk_timeout_s: float = 30.0
    min_upload_bytes_per_s: int = 64 * 1024
    watch_interval_s: float = 1.0
    queue_timeout_s: float = 2.0
    retry_after_s: float = 2.0


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """What callers may show to say who they are.

    Attributes:
        max_token_bytes: A bearer token; 1 to 4 KiB are usual, and all headers share 16 KiB.
        max_token_life_s: From a token's issue to its end; it cannot be called back before.
        clock_leeway_s: How far the token issuer's clock may be off.
        min_reason_chars: Why the glass is broken; fewer say nothing.
        max_reason_chars: The same; the audit trail keeps it.
    """

    max_token_bytes: int = 6144
    max_token_life_s: int = 86_400
    clock_leeway_s: int = 30
    min_reason_chars: int = 10
    max_reason_chars: int = 200


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What gRPC itself bounds, before any of our code runs.

    Attributes:
        max_message_bytes: One message, either way: the largest chunk and room for a page of jobs.
        max_metadata_bytes: All headers of a call; a bearer token has 1 to 4 KiB.
        max_calls: Calls at one time, of all senders.
        max_calls_per_connection: HTTP/2 streams of one connection.
        handshake_timeout_s: A connection that has not finished TLS by then is closed.
        max_idle_s: A connection without calls is closed.
        max_age_s: A connection is asked to close, so that senders spread over new gateways.
        max_age_grace_s: Time its calls then get; longer than the longest upload.
        keepalive_s: Between two looks whether the other side of a connection lives.
        keepalive_timeout_s: Longest wait for its answer.
    """

    max_message_bytes: int = 4 << 20
    max_metadata_bytes: int = 16 << 10
    max_calls: int = 200
    max_calls_per_connection: int = 128
    handshake_timeout_s: float = 5.0
    max_idle_s: float = 30.0
    max_age_s: float = 7_200.0
    max_age_grace_s: float = 3_600.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """What the proto file allows the fields of a request to hold.

    Attributes:
        max_chunk_bytes: A piece of ciphertext; half a message, so that a message always holds one.
        max_wrapped_key_bytes: A wrapped data key; HPKE needs about 200.
        max_keyset_bytes: A public keyset; one key needs about 150.
        max_label_bytes: A sealed label, encrypted: a name and a line of text.
        max_tenant_chars: A tenant's name: a DNS label (RFC 1035).
        max_model_chars: A model's name.
        max_page_jobs: Jobs in one answer: 500 of them are about 250 KiB.
        max_page_events: Events in one answer.
        max_page_token_chars: What an earlier page named as the next one.
        max_reason_chars: Why a patient is erased, for people.
    """

    max_chunk_bytes: int = 2 << 20
    max_wrapped_key_bytes: int = 2048
    max_keyset_bytes: int = 4096
    max_label_bytes: int = 1024
    max_tenant_chars: int = 63
    max_model_chars: int = 64
    max_page_jobs: int = 500
    max_page_events: int = 1000
    max_page_token_chars: int = 128
    max_reason_chars: int = 200
