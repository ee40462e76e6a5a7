"""What every isolated child is a copy of: importing this module does once what each would repeat.

    fork server ──imports──▶ libraries, highdicom's tables ──fork──▶ child (a third of the time)

The one module of ours whose import does work, since importing is all that the fork server offers;
nothing but ``preload`` names it. Parsing the standard's tables takes 0.3 s of CPU.
"""

from __future__ import annotations

import gc
from io import BytesIO

import numpy.ma
from highdicom import SOPClass
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

import client.worker.stages

__all__ = ("LIBRARIES",)

LIBRARIES = (numpy.ma, client.worker.stages)
"""What the stages need, also what they import only when they are used."""


def _write_one_object() -> None:
    """Make the writer read the tables of the standard that it keeps from then on."""
    example = SOPClass(
        study_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        series_number=1,
        sop_instance_uid="2.25.3",
        sop_class_uid=SegmentationStorage,
        instance_number=1,
        modality="SEG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_birth_date="",
    )
    example.save_as(BytesIO(), enforce_file_format=True)


_write_one_object()
# Else the first collection in each child would copy every page of the above.
gc.freeze()
