"""Every error the client tier raises, one class per thing a caller does differently.

    ClientError
    ├── ConfigurationError      stop and mend the settings; nothing was touched
    ├── Rejected                never try again: the study itself cannot be processed (has a code)
    ├── Transient               try again later: a part of the system is away or full
    │   └── Busy                the same, and the caller is told how long to wait
    ├── NotFound                no such job, key or object (or it belongs to someone else)
    │   └── Erased              it was there, and its key was destroyed for good
    ├── AccessDenied            the caller may not do this
    │   └── Unauthenticated     the caller has not shown who it is; a new token may help
    ├── WrongState              the job is not in a state that allows it
    ├── Conflict                the same id was used for different content
    └── LeaseLost               another worker owns the job now; drop what you have

Foreign errors are translated in the module that calls the foreign library, by type or status
code, never by text. Messages say what was expected and what came, and never hold patient data.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = (
    "AccessDenied",
    "Busy",
    "ClientError",
    "ConfigurationError",
    "Conflict",
    "Erased",
    "LeaseLost",
    "NotFound",
    "RefusalCode",
    "Rejected",
    "Transient",
    "Unauthenticated",
    "WrongState",
)


class RefusalCode(StrEnum):
    """Why a study or a series was refused; stable strings that senders may act upon."""

    INVALID_REQUEST = "INVALID_REQUEST"
    """A field of a request breaks a rule that the protocol declares."""
    BAD_ENVELOPE = "BAD_ENVELOPE"
    """Decryption, length or hash check failed: the upload is damaged or not for this worker."""
    BAD_BUNDLE = "BAD_BUNDLE"
    """The plaintext is not a tar stream of regular files."""
    TOO_LARGE = "TOO_LARGE"
    """A stated limit on bytes, files, rows, columns or frames was exceeded."""
    NOT_DICOM = "NOT_DICOM"
    """A file is not a readable DICOM Part 10 file (PS3.10)."""
    NO_IMAGES = "NO_IMAGES"
    """The bundle holds no image instance at all."""
    NO_PIXELS = "NO_PIXELS"
    """An instance has no pixel data (report, plan, waveform, directory)."""
    TRUNCATED_PIXELS = "TRUNCATED_PIXELS"
    """Pixel data is shorter than rows x columns x frames x bytes."""
    UNDECODABLE = "UNDECODABLE"
    """The pixel data could not be decoded, or the transfer syntax has no decoder."""
    COLOUR = "COLOUR"
    """Photometric interpretation is not MONOCHROME1 or MONOCHROME2 (colour, palette)."""
    INVALID_ATTRIBUTE = "INVALID_ATTRIBUTE"
    """An attribute that the result depends on is missing, empty or malformed."""
    NO_GEOMETRY = "NO_GEOMETRY"
    """Image position, orientation or pixel spacing is missing."""
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    """Slices of one series differ in orientation."""
    MIXED_SPACING = "MIXED_SPACING"
    """Slices of one series differ in pixel spacing or matrix, or distances between slices vary."""
    MISSING_SLICE = "MISSING_SLICE"
    """A gap of a whole number of slice distances: a slice was not sent."""
    DUPLICATE_SLICE = "DUPLICATE_SLICE"
    """Two slices lie at the same position."""
    MULTIPLE_VOLUMES = "MULTIPLE_VOLUMES"
    """One series holds several volumes: echoes, b-values, time points, stacks."""
    GANTRY_TILT = "GANTRY_TILT"
    """Slice positions are sheared against the slice normal."""
    BURNED_IN_TEXT = "BURNED_IN_TEXT"
    """De-identification: the pixels may show a name, and pixels are not cleaned."""
    NO_MODEL = "NO_MODEL"
    """No model in service takes this series (modality, SOP class, body part, plane)."""
    DECODER_CRASHED = "DECODER_CRASHED"
    """Reading the study killed the isolated reader process."""
    TIMED_OUT = "TIMED_OUT"
    """Processing took longer than the stated limit."""
    RETRIES_EXHAUSTED = "RETRIES_EXHAUSTED"
    """Every attempt failed for a reason that might have healed."""
    ERASED = "ERASED"
    """The patient's key was destroyed; neither study nor result can be read any more."""
    EXPIRED = "EXPIRED"
    """The time for which results are kept is over."""


class ClientError(Exception):
    """Base of every error raised by the client tier."""


class ConfigurationError(ClientError):
    """A setting, file or installed part is missing or wrong."""


class Rejected(ClientError):
    """The study or series can never be processed as it is.

    Args:
        code: The stable reason.
        reason: One sentence: what was expected, what came, what to do. No patient data.
    """

    def __init__(self, code: RefusalCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class Transient(ClientError):
    """A part of the system is away for now; the same call may succeed later."""


class Busy(Transient):
    """The system is full.

    Args:
        reason: What is full.
        retry_after_s: How long the caller should wait before the next try.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason}; try again in {self.retry_after_s:g} s"


class NotFound(ClientError):
    """No such thing, or it belongs to another tenant: the answer is the same."""


class Erased(NotFound):
    """The key that opens it was destroyed on purpose; no copy can ever be read again."""


class AccessDenied(ClientError):
    """The caller's certificate or roles do not allow what was asked."""


class Unauthenticated(AccessDenied):
    """The caller's token is missing, invalid or no longer valid."""


class WrongState(ClientError):
    """The job is not in a state that allows what was asked."""


class Conflict(ClientError):
    """An upload id was reused for different content."""


class LeaseLost(ClientError):
    """The job was taken over by another attempt; this attempt's result must be dropped."""
