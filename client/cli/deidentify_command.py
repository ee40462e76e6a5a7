"""deidentify: copies of DICOM files without the patient's identity, from the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.console import ExitCode, Output
from client.crypto.keydirectory import KeyDirectory
from client.crypto.privatefiles import make_private_directory, write_private
from client.crypto.pseudonyms import PseudonymKey
from client.errors import ConfigurationError, RefusalCode, Rejected
from client.settings import load_settings

if TYPE_CHECKING:
    from client.dicom.deidentify import Profile

__all__ = ("deidentify",)


def deidentify(
    path: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder for the copies; made when missing.")],
    *,
    keep_dates_shifted: Annotated[
        bool, typer.Option(help="Move dates by one number of days per patient.")
    ] = False,
    keep_characteristics: Annotated[
        bool, typer.Option(help="Keep sex, age, size, weight and the like.")
    ] = False,
    keep_device: Annotated[
        bool, typer.Option(help="Keep the device's serial number and the like.")
    ] = False,
    accept_burned_in_text: Annotated[
        bool, typer.Option(help="You looked at the images: none shows who the patient is.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Copy DICOM files without the patient's identity (DICOM PS3.15 Annex E, Basic Profile).

    UIDs and patients get the same new names in every file and every run with this tenant's key.
    Copies are named after their new UID. Files that may show a name in their pixels are refused.
    """
    from client.dicom.deidentify import Profile

    settings = load_settings()
    key = PseudonymKey.load(KeyDirectory(Path(settings.keys)).pseudonym_key(settings.tenant))
    profile = Profile(
        key.secret,
        shift_dates=keep_dates_shifted,
        keep_characteristics=keep_characteristics,
        keep_device=keep_device,
        accept_burned_in_text=accept_burned_in_text,
    )
    _check_apart(path, out)
    make_private_directory(out)
    written, refused = 0, []
    for source in _files(path):
        try:
            _copy(source, out, profile)
            written += 1
        except Rejected as refusal:
            name = source.relative_to(path if path.is_dir() else path.parent)
            refused.append({"file": str(name), "code": str(refusal.code), "why": refusal.reason})
    _report(Output(as_json), written, refused, out)
    if refused or not written:
        raise typer.Exit(ExitCode.REJECTED)


def _check_apart(path: Path, out: Path) -> None:
    source, target = path.resolve(), out.resolve()
    if source.is_dir() and (target == source or source in target.parents):
        raise ConfigurationError(
            "The folder for the copies lies inside the folder of the originals, where the next "
            "run would read them: choose another --out."
        )


def _files(path: Path) -> Iterator[Path]:
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return (file for file in found if file.is_file())


def _copy(source: Path, out: Path, profile: Profile) -> None:
    from client.dicom.deidentify_files import deidentify_file

    result = deidentify_file(source.read_bytes(), profile)
    target = out / f"{result.sop_instance_uid}.dcm"
    if target.exists() and target.read_bytes() != result.content:
        raise Rejected(
            RefusalCode.DUPLICATE_SLICE,
            "Every instance was expected once, but the folder holds a copy of this one with other "
            "content; use an empty --out for each set of options, and send one version.",
        )
    write_private(target, result.content)


def _report(output: Output, written: int, refused: list[dict[str, str]], out: Path) -> None:
    if output.as_json:
        output.value({"written": written, "folder": str(out), "refused": refused})
        return
    output.say(f"{written} files written to {out}.")
    output.say("Pixels were not looked at: faces and text in images are not removed.")
    if refused:
        kinds = Counter((one["code"], one["why"]) for one in refused)
        output.rows("Refused", [{"code": c, "files": n, "why": w} for (c, w), n in kinds.items()])
        output.rows(
            "Refused files", [{"file": one["file"], "code": one["code"]} for one in refused]
        )
