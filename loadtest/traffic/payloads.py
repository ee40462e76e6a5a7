"""The files of each study: a real head MR, synthetic CT and X-ray, with ids of their own.

templates (once) ──one replacement per file──▶ a study that nobody sent before

Every id of a template holds one number; a study is made by putting its own number, which follows
from the seed, in its place. Lengths stay, so nothing is parsed or compressed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from client.errors import ConfigurationError
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.synthetic import ct_series, encoded, xray_images

__all__ = ("SAMPLE", "Payloads")

SAMPLE = Path(__file__).parents[2] / "samples" / "colin27_mr"
_DIGITS = 30
_PLACEHOLDER = "7" * _DIGITS
_ROLE_DIGITS = 8
"""With the number before it 38 digits: always below 2**128, as a UID under 2.25 (PS3.5 B.2)."""
_STUDY, _SERIES, _FRAME_OF_REFERENCE, _FIRST_INSTANCE = 1, 2, 3, 1000


class Payloads:
    """Makes studies.

    Args:
        seed: The same one makes the same studies.
        kinds: Which kinds are asked for.
        sample: Folder of the head MR, one slice a file.

    Raises:
        ConfigurationError: The sample is not there.
    """

    def __init__(self, seed: int, kinds: Iterable[str], sample: Path = SAMPLE) -> None:
        self._seed = seed
        makers: dict[str, Callable[[], Iterable[Dataset]]] = {
            "mr_head": lambda: [dcmread(file) for file in sorted(sample.glob("*.dcm"))],
            "ct": lambda: ct_series(np.random.default_rng(seed)),
            "xray": lambda: xray_images(np.random.default_rng(seed)),
        }
        self._templates = {kind: _template(makers[kind]()) for kind in sorted(set(kinds))}
        if not all(self._templates.values()):
            raise ConfigurationError(f"Expected a series of DICOM files (*.dcm) in {sample}.")

    def files(self, arrival: Arrival) -> list[bytes]:
        """Return a study's files; its slices are the middle ones of the template.

        Raises:
            ConfigurationError: It asks for more slices than there are.
        """
        template = self._templates[arrival.kind]
        if arrival.slices > len(template):
            raise ConfigurationError(
                f"Expected at most {len(template)} slices of {arrival.kind}, got {arrival.slices}."
            )
        start = (len(template) - arrival.slices) // 2
        number = _number(self._seed, arrival.number).encode()
        chosen = template[start : start + arrival.slices]
        return [content.replace(_PLACEHOLDER.encode(), number) for content in chosen]


def _template(instances: Iterable[Dataset]) -> tuple[bytes, ...]:
    return tuple(encoded(_renamed(instance, place)) for place, instance in enumerate(instances))


def _renamed(instance: Dataset, place: int) -> Dataset:
    instance.PatientID = f"LOAD-{_PLACEHOLDER}"
    instance.StudyInstanceUID = _uid(_STUDY)
    instance.SeriesInstanceUID = _uid(_SERIES)
    instance.FrameOfReferenceUID = _uid(_FRAME_OF_REFERENCE)
    instance.SOPInstanceUID = _uid(_FIRST_INSTANCE + place)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    return instance


def _uid(role: int) -> str:
    return f"2.25.{_PLACEHOLDER}{role:0{_ROLE_DIGITS}d}"


def _number(seed: int, study: int) -> str:
    """A study's number, of ``_DIGITS`` digits and without a leading zero."""
    digest = hashlib.sha256(f"{seed}:{study}".encode()).digest()
    low = 10 ** (_DIGITS - 1)
    return str(low + int.from_bytes(digest[:16]) % (9 * low))
