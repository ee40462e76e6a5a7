"""Reads the files of a study into checked series; what can't be processed becomes a coded refusal.

files ──parse──▶ instances ──group──▶ check ▶ stack ▶ decode ▶ rescale ──▶ Series │ refusal

Uncompressed pixels stay in the memory that their files lie in, where the caller lends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from client.dicom.attributes import invalid, items, text
from client.dicom.decoding import decode_all
from client.dicom.frames import ENHANCED_SOP_CLASSES, Frame, read_frames
from client.dicom.headers import LOSSY_KEYWORDS
from client.dicom.inplace import FileMemory
from client.dicom.parsing import Buffer, Inflation, Instance, parse_instance
from client.dicom.pixels import PixelLayout, check_pixels
from client.dicom.plain import Conversions
from client.dicom.quiet import quiet
from client.dicom.rescaling import CommonScale, SliceStack, apply_lut, replace_padding
from client.dicom.series import Series, SeriesRefusal, SourceFrame, StudyContent
from client.dicom.stacking import stack_frames
from client.errors import RefusalCode, Rejected
from client.limits import ReadLimits
from preprocess.geometry import SliceGeometry

__all__ = ("Allocate", "read_study")

Allocate = Callable[[tuple[int, int, int]], NDArray[np.int16]]
Key = tuple[str, str]
"""Of a group: Series Instance UID and SOP Class UID."""
_NO_MEMORY = np.empty(0, dtype=np.uint8)


def _fresh(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    return np.empty(shape, dtype=np.int16)


def read_study(
    files: Iterable[tuple[str, Buffer]],
    limits: ReadLimits,
    modalities: Collection[str] | None = None,
    allocate: Allocate = _fresh,
    memory: NDArray[np.uint8] = _NO_MEMORY,
    *,
    processes: int = 1,
) -> StudyContent:
    """Reads a study from memory. Trusts nothing; run it in a process of its own.

    Args:
        files: Name and content of each file; names are never used or repeated. Contents are not
            copied: nobody else may change them until the study is read.
        limits: What the study may ask for.
        modalities: Modalities that some model in service takes: series of any other one are
            refused with ``NO_MODEL`` before their geometry and pixels are looked at. None reads
            every modality.
        allocate: Gives the memory for the stored values of a series [slices, rows, columns], int16
            and contiguous. Called once for each series that passed every check before its pixels
            are decoded, so that it may still be refused.
        memory: Where the files lie, if it may be written over: series whose files are uncompressed
            and lie together then need no other memory. The files are lost. Read-only memory, as
            empty memory, is left as it is.
        processes: Cores to decode compressed frames on; more than one forks this process, which
            must not have threads.

    Returns:
        Series and refusals, each sorted by Series Instance UID.

    Raises:
        Rejected: ``TOO_LARGE``: more files than allowed; ``NO_IMAGES``: no file at all.
    """
    with quiet():
        groups, refusals = _parse_all(files, limits)
        series: list[Series] = []
        left_bytes = _pixel_room(groups.values(), limits)
        rooms = _Rooms(allocate, FileMemory(memory, groups))
        for key, instances in sorted(groups.items()):
            uid, _ = key
            try:
                _check_images(instances, modalities)
                one = _read_series(key, instances, limits, left_bytes, rooms, processes=processes)
            except Rejected as refusal:
                refusals.append(SeriesRefusal(uid, refusal.code, refusal.reason, len(instances)))
            else:
                left_bytes -= one.stored.nbytes
                series.append(one)
    refusals.sort(key=lambda refusal: (refusal.series_uid, refusal.code))
    return StudyContent(tuple(series), tuple(refusals))


@dataclass(frozen=True)
class _Rooms:
    """Where stored values may go."""

    allocate: Allocate
    files: FileMemory[Key]

    def room(
        self, key: Key, instances: Sequence[Instance], layouts: Sequence[PixelLayout]
    ) -> tuple[NDArray[np.int16], bool]:
        """Memory for a series, and whether it takes the frames in the order of the files first."""
        found = self.files.room(key, instances, layouts)
        if found is not None:
            return found, True
        frames = sum(layout.frames for layout in layouts)
        return self.allocate((frames, layouts[0].rows, layouts[0].columns)), False


def _parse_all(
    files: Iterable[tuple[str, Buffer]], limits: ReadLimits
) -> tuple[dict[Key, list[Instance]], list[SeriesRefusal]]:
    """Groups instances by series and SOP class; unreadable files are counted by reason."""
    groups: dict[Key, list[Instance]] = {}
    unreadable: dict[tuple[RefusalCode, str], int] = {}
    inflation, conversions = Inflation(limits), Conversions()
    count = 0
    for _, data in files:
        count += 1
        if count > limits.max_files:
            raise Rejected(
                RefusalCode.TOO_LARGE,
                f"At most {limits.max_files} files per study were expected, and more came; send "
                "the series one by one.",
            )
        try:
            instance = parse_instance(data, limits, inflation, conversions)
        except Rejected as refusal:
            key = (refusal.code, refusal.reason)
            unreadable[key] = unreadable.get(key, 0) + 1
        else:
            group = (instance.series_uid, instance.sop_class_uid)
            groups.setdefault(group, []).append(instance)
            if len(groups) > limits.max_series:
                raise Rejected(
                    RefusalCode.TOO_LARGE,
                    f"At most {limits.max_series} series per study were expected, and more came; "
                    "send them in several studies.",
                )
    if count == 0:
        raise Rejected(
            RefusalCode.NO_IMAGES,
            "At least one DICOM file was expected, and none came; send the images of a series.",
        )
    refusals = [SeriesRefusal("", code, why, n) for (code, why), n in unreadable.items()]
    return groups, refusals


def _pixel_room(groups: Iterable[Sequence[Instance]], limits: ReadLimits) -> int:
    """Bytes that all pixels of a study may decode to, by the bytes that came for them."""
    encoded = sum(instance.encoded_bytes for group in groups for instance in group)
    grown = limits.free_expansion_bytes + limits.max_expansion * encoded
    return min(limits.max_pixel_bytes, grown)


def _read_series(
    key: Key,
    instances: Sequence[Instance],
    limits: ReadLimits,
    most_bytes: int,
    rooms: _Rooms,
    *,
    processes: int,
) -> Series:
    instances = _without_repeats(instances)
    layouts = [check_pixels(instance, limits) for instance in instances]
    _check_common(instances, layouts, limits, most_bytes)
    pairs = [
        (index, frame)
        for index, (instance, layout) in enumerate(zip(instances, layouts, strict=True))
        for frame in read_frames(instance, layout.frames)
    ]
    stack = stack_frames([frame for _, frame in pairs])
    pairs = [pairs[i] for i in stack.order]
    header = _series_header(instances)
    # From here on the files may be written over: all that is needed of them but pixels is copied.
    room, in_file_order = rooms.room(key, instances, layouts)
    places = _places(instances, pairs, room, in_file_order)
    scale = _decode(instances, layouts, pairs, places, processes)
    first, grid = instances[0].dataset, pairs[0][1]
    return Series(
        uid=key[0],
        stored=scale.stored,
        slope=scale.slope,
        intercept=scale.intercept,
        inverted=layouts[0].inverted,
        geometry=SliceGeometry(
            rows=layouts[0].rows,
            columns=layouts[0].columns,
            row_spacing_mm=grid.spacing_mm[0],
            column_spacing_mm=grid.spacing_mm[1],
            orientation=stack.orientation,
        ),
        origin_mm=stack.origin_mm,
        slice_step_mm=stack.step_mm,
        slice_thickness_mm=stack.thickness_mm,
        header=header,
        instances=len(instances),
        frames=tuple(_source(instances, index, frame) for index, frame in pairs),
        sop_class_uid=instances[0].sop_class_uid,
        modality=text(first, "Modality").upper(),
        body_part=_body_part(instances[0]),
        description=text(first, "SeriesDescription") or text(first, "ProtocolName"),
        study_description=f"{text(first, 'ProtocolName')} {text(first, 'StudyDescription')}",
        image_type=" ".join(text(first, "ImageType").upper().split("\\")[2:]),
    )


def _check_images(instances: Sequence[Instance], modalities: Collection[str] | None) -> None:
    bare = sum(not instance.has_pixels for instance in instances)
    if bare:
        kind = "a DICOMDIR" if instances[0].is_directory else "a report, plan, waveform or the like"
        raise Rejected(
            RefusalCode.NO_PIXELS,
            f"Images were expected, but {bare} of {len(instances)} instances have no pixel data "
            f"({kind}); nothing is to be done if they are no images, else send them again.",
        )
    found = {text(instance.dataset, "Modality").upper() for instance in instances}
    if len(found) > 1:
        raise invalid("Modality", "one value in all instances of a series")
    modality = found.pop()
    if modalities is not None and modality not in modalities:
        shown = modality if re.fullmatch(r"[A-Z0-9]{2,16}", modality) else "an unknown one"
        raise Rejected(
            RefusalCode.NO_MODEL,
            f"A modality with a model in service was expected ({', '.join(sorted(modalities))}), "
            f"but this is {shown}; nothing is to be done until a model for it is installed.",
        )


def _without_repeats(instances: Sequence[Instance]) -> list[Instance]:
    """Drops files that came twice; the same instance with other content is a conflict."""
    kept: dict[str, Instance] = {}
    for instance in instances:
        if not instance.sop_instance_uid:
            raise invalid("SOPInstanceUID", "a UID in every instance")
        known = kept.setdefault(instance.sop_instance_uid, instance)
        if known is not instance and known.content != instance.content:
            raise Rejected(
                RefusalCode.DUPLICATE_SLICE,
                "Every instance was expected once, but different files have the same SOP Instance "
                "UID (0008,0018); send one version of each instance.",
            )
    return list(kept.values())


def _check_common(
    instances: Sequence[Instance],
    layouts: Sequence[PixelLayout],
    limits: ReadLimits,
    most_bytes: int,
) -> None:
    """What must be the same in every instance, and what they ask for together."""
    shapes = {(layout.rows, layout.columns) for layout in layouts}
    if len(shapes) > 1:
        raise Rejected(
            RefusalCode.MIXED_SPACING,
            f"One matrix size was expected in a series, but {len(shapes)} different ones came; "
            "send each as a series of its own.",
        )
    if len({layout.inverted for layout in layouts}) > 1:
        raise invalid("PhotometricInterpretation", "one value in all instances of a series")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        found = {text(instance.dataset, keyword) for instance in instances}
        required = keyword != "FrameOfReferenceUID"
        if len(found) > 1 or (required and "" in found):
            raise invalid(keyword, "one UID, the same in all instances of a series")
    if len(instances) > 1 and instances[0].sop_class_uid in ENHANCED_SOP_CLASSES:
        raise Rejected(
            RefusalCode.MULTIPLE_VOLUMES,
            f"One multi-frame instance per series was expected, but {len(instances)} came; send "
            "each as a series of its own.",
        )
    frames = sum(layout.frames for layout in layouts)
    pixel_bytes = 2 * frames * layouts[0].rows * layouts[0].columns
    if frames > limits.max_frames or pixel_bytes > most_bytes:
        raise Rejected(
            RefusalCode.TOO_LARGE,
            f"At most {limits.max_frames} slices per series and {limits.max_pixel_bytes} bytes of "
            f"decoded pixels per study ({limits.max_expansion} times the compressed bytes) were "
            f"expected, but this series has {frames} slices and {pixel_bytes} bytes; send it alone "
            "or raise the limit.",
        )


def _places(
    instances: Sequence[Instance],
    pairs: Sequence[tuple[int, Frame]],
    room: NDArray[np.int16],
    in_file_order: bool,
) -> SliceStack:
    has_lut = [bool(items(instance.dataset, "ModalityLUTSequence")) for instance in instances]
    return SliceStack(
        room,
        [1.0 if has_lut[index] else frame.slope for index, frame in pairs],
        [0.0 if has_lut[index] else frame.intercept for index, frame in pairs],
        _file_places(pairs) if in_file_order else None,
    )


def _decode(
    instances: Sequence[Instance],
    layouts: Sequence[PixelLayout],
    pairs: Sequence[tuple[int, Frame]],
    stack: SliceStack,
    processes: int,
) -> CommonScale:
    """Decodes instance by instance, each frame straight to its place in the stack."""
    slices = {(index, frame.number or 1): number for number, (index, frame) in enumerate(pairs)}
    decoded = zip(instances, layouts, decode_all(instances, layouts, processes), strict=True)
    for index, (instance, layout, found) in enumerate(decoded):
        pixels = replace_padding(found, instance.dataset, inverted=layout.inverted)
        pixels = apply_lut(pixels, instance.dataset)
        for number, frame_pixels in enumerate(pixels, start=1):
            stack.put(slices[index, number], frame_pixels)
    return stack.to_common_scale()


def _file_places(pairs: Sequence[tuple[int, Frame]]) -> list[int]:
    """The place of each slice among all frames in the order of the files."""
    came = sorted((index, frame.number or 1) for index, frame in pairs)
    places = {frame: place for place, frame in enumerate(came)}
    return [places[index, frame.number or 1] for index, frame in pairs]


def _source(instances: Sequence[Instance], index: int, frame: Frame) -> SourceFrame:
    instance = instances[index]
    return SourceFrame(
        index, instance.sop_class_uid, instance.sop_instance_uid, frame.number, frame.position_mm
    )


def _series_header(instances: Sequence[Instance]) -> Dataset:
    """The first instance's; what any instance lost, the whole series lost."""
    header = instances[0].header()
    for instance in instances[1:]:
        if text(header, "LossyImageCompression") == "01":
            break
        if text(instance.dataset, "LossyImageCompression") == "01":
            lossy = instance.header()
            for keyword in LOSSY_KEYWORDS:
                if keyword in lossy:
                    header[keyword] = lossy[keyword]
    return header


def _body_part(instance: Instance) -> str:
    """Body Part Examined, or the region that enhanced images name (PS3.3 C.7.6.16.2.8)."""
    found = text(instance.dataset, "BodyPartExamined")
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items(instance.dataset, keyword)[:1]:
            for anatomy in items(group, "FrameAnatomySequence")[:1]:
                for region in items(anatomy, "AnatomicRegionSequence")[:1]:
                    found = found or text(region, "CodeMeaning")
    return found.upper()
