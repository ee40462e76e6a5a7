"""Publishing changes a repository whole or not at all, whatever fails and whenever it is killed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.errors import PublishError
from export.recipe import CpuPrecision
from export.repository import disk
from export.repository.disk import Disk
from export.repository.layout import ModelFolders, file_hashes
from export.repository.options import Serving
from export.repository.publishing import Published, publish
from export.repository.staging import stage, write_provenance
from export.repository.transaction import recover, work_folder
from preprocess.spec import GeometrySpec, ModelSpec, find_model_specs
from tests.networks import write_network
from tests.publications import FailingDisk, WatchedDisk, snapshot, stage_model

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
ENDLESS = 10**6


@dataclasses.dataclass(frozen=True)
class Case:
    """A publication: what is there, what comes, and what has to be said."""

    repository: Path
    staged: Path
    replace: bool = False


@pytest.fixture(scope="module")
def specs(brain_mr: ModelSpec) -> dict[str, ModelSpec]:
    small = dataclasses.replace(
        brain_mr,
        route=dataclasses.replace(brain_mr.route, description_patterns=(), exclude_patterns=()),
        geometry=GeometrySpec((1.0, 1.0), (64, 64)),
        segments=brain_mr.segments[:1],
        cleanup=None,
    )
    finer = dataclasses.replace(small, geometry=GeometrySpec((0.5, 1.0), (64, 64)))
    return {
        "first": small,
        "second": small,
        "renamed": dataclasses.replace(small, title="Another title"),
        "finer": finer,
    }


@pytest.fixture(scope="module")
def staged(specs: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four staged models, made once; nobody changes them."""
    folder = tmp_path_factory.mktemp("staged")
    for name, spec in specs.items():
        content = b"first" if name == "renamed" else name.encode()
        stage_model(folder / name, spec, content * 5000)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with another model in it, which is nobody's business."""
    other = tmp_path / "models" / "other" / "1"
    other.mkdir(parents=True)
    (other / "model.py").write_text("# other")
    return tmp_path / "models"


def publish_first(staged: Path, repository: Path) -> None:
    assert publish(staged / "first", repository) == Published("brain_mr", 1, changed=True)


def test_a_new_model_gets_version_one(staged: Path, repository: Path) -> None:
    publish_first(staged, repository)
    expected = snapshot(staged / "first") | {"other": None, "other/1": None}
    assert snapshot(repository) == expected | {"other/1/model.py": b"# other"}
    assert [spec.name for spec in find_model_specs(repository)] == ["brain_mr"]


def test_another_network_gets_the_next_version(staged: Path, repository: Path) -> None:
    publish_first(staged, repository)
    before = snapshot(repository)
    assert publish(staged / "second", repository) == Published("brain_mr", 2, changed=True)
    after = snapshot(repository)
    assert before.items() <= after.items()
    assert set(after.keys() - before.keys()) == {
        f"brain_mr_net/2{file}" for file in ("", "/model.onnx", "/model.py", "/provenance.json")
    }


def test_numbers_of_missing_versions_are_not_given_again(staged: Path, repository: Path) -> None:
    publish_first(staged, repository)
    (repository / "brain_mr_net" / "1").rename(repository / "brain_mr_net" / "41")
    assert publish(staged / "second", repository).version == 42


def test_the_same_again_does_nothing(staged: Path, repository: Path) -> None:
    publish_first(staged, repository)
    touched = {path: path.stat() for path in repository.rglob("*")}
    again = publish(staged / "first", repository)
    assert again == Published("brain_mr", 1, changed=False)
    for path, before in touched.items():
        now = path.stat()
        assert (now.st_mtime_ns, now.st_ino) == (before.st_mtime_ns, before.st_ino), path


def test_another_provenance_alone_is_nothing_new(
    specs: dict[str, ModelSpec], repository: Path, tmp_path: Path
) -> None:
    folder = stage_model(tmp_path / "one", specs["first"], b"one")
    publish(folder, repository)
    write_provenance(ModelFolders(folder, "brain_mr"), {"built": "later"})
    assert not publish(folder, repository).changed


def test_the_same_network_of_another_revision_is_nothing_new(
    specs: dict[str, ModelSpec], repository: Path, tmp_path: Path
) -> None:
    network = tmp_path / "network.onnx"

    def staged_network(revision: str, seed: int = 0) -> Path:
        write_network(network, side=64, seed=seed)
        model = onnx.load(network)
        model.metadata_props.add(key="git_revision", value=revision)
        return stage_model(tmp_path / revision, specs["first"], model.SerializeToString())

    assert publish(staged_network("a"), repository).version == 1
    before = snapshot(repository)
    assert not publish(staged_network("b"), repository).changed
    assert snapshot(repository) == before
    assert publish(staged_network("c", seed=1), repository).version == 2


def test_a_title_changes_in_place(staged: Path, repository: Path) -> None:
    """What does not decide an answer needs no version."""
    publish_first(staged, repository)
    assert publish(staged / "renamed", repository) == Published("brain_mr", 1, changed=True)
    [spec] = find_model_specs(repository)
    assert spec.title == "Another title"


def test_versions_that_would_answer_wrongly_are_kept_from_it(
    staged: Path, repository: Path
) -> None:
    publish_first(staged, repository)
    publish(staged / "second", repository)
    before = snapshot(repository)
    with pytest.raises(PublishError) as caught:
        publish(staged / "finer", repository)
    message = str(caught.value)
    assert all(part in message for part in ("versions 1, 2", "geometry", "replace"))
    assert snapshot(repository) == before
    replaced = publish(staged / "finer", repository, replace=True)
    assert replaced == Published("brain_mr", 3, changed=True, dropped=(1, 2))
    assert ModelFolders(repository, "brain_mr").versions == (3,)
    [spec] = find_model_specs(repository)
    assert spec.geometry.spacing_mm == (0.5, 1.0)


def test_the_same_network_behind_another_first_step_is_another_version(
    specs: dict[str, ModelSpec], staged: Path, repository: Path, tmp_path: Path
) -> None:
    """A version number never means two different ways from picture to mask."""
    publish_first(staged, repository)
    folder = stage_model(tmp_path / "same", specs["finer"], b"first" * 5000)
    assert publish(folder, repository, replace=True).version == 2


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"cpu": CpuPrecision.BF16}, "net in the cpu profile"),
        ({"batch_cpu": 4, "batch_gpu": (1, 4, 16)}, ""),
    ],
)
def test_how_a_step_runs_decides_too_but_not_its_batches(
    specs: dict[str, ModelSpec], repository: Path, tmp_path: Path, *, changes: Any, refused: str
) -> None:
    """Older versions were verified as they were configured."""
    publish(stage_model(tmp_path / "first", specs["first"], b"first"), repository)
    folder = stage_model(tmp_path / "changed", specs["second"], b"second", **changes)
    if refused:
        with pytest.raises(PublishError, match=refused):
            publish(folder, repository)
    else:
        assert publish(folder, repository).version == 2


def test_a_file_that_is_no_longer_made_goes_and_an_operators_stays(
    staged: Path, repository: Path
) -> None:
    publish_first(staged, repository)
    gone = repository / "brain_mr_prep" / "1" / "model.old"
    kept = repository / "brain_mr_prep" / "configs" / "site.pbtxt"
    gone.write_text("old")
    kept.write_text('name: "brain_mr_prep"')
    publish(staged / "second", repository)
    assert not gone.exists()
    assert kept.exists()


def test_a_description_of_another_time_is_not_taken_for_the_same(
    staged: Path, repository: Path
) -> None:
    publish_first(staged, repository)
    (repository / "brain_mr" / "model.yaml").write_text("name: brain_mr\n")
    with pytest.raises(PublishError, match=r"cannot be read any more.*'version' is missing"):
        publish(staged / "second", repository)
    assert publish(staged / "second", repository, replace=True).dropped == (1,)


def test_the_provenance_names_every_file_and_no_machine(staged: Path) -> None:
    model = ModelFolders(staged / "first", "brain_mr")
    files = model.version_files(1)
    provenance = json.loads(files.pop("provenance.json").read_text())
    assert provenance["files"] == file_hashes(files)
    assert provenance["shared"] == file_hashes(model.shared_files())
    assert provenance["recipe"] == "tests"
    assert str(staged) not in json.dumps(provenance)


def test_staging_twice_gives_the_same_bytes(
    specs: dict[str, ModelSpec], staged: Path, tmp_path: Path
) -> None:
    again = stage_model(tmp_path / "again", specs["first"], b"first" * 5000)
    (again / "rest").write_text("of something else")
    again = stage_model(tmp_path / "again", specs["first"], b"first" * 5000)
    assert snapshot(again) == snapshot(staged / "first")


def test_what_the_cpu_profile_serves_must_be_staged(
    specs: dict[str, ModelSpec], tmp_path: Path
) -> None:
    network = tmp_path / "model.xml"
    network.write_text("<net/>")
    serving = Serving(cpu=CpuPrecision.INT8, cpu_file="model.xml")
    with pytest.raises(PublishError, match=r"model\.bin"):
        stage(tmp_path / "staged", specs["first"], serving, {"model.xml": network})


@pytest.mark.parametrize("wrong", ["empty", "two", "versions"])
def test_only_one_model_with_one_version_is_published(
    staged: Path, repository: Path, tmp_path: Path, wrong: str
) -> None:
    folder = tmp_path / "staged"
    if wrong == "empty":
        folder.mkdir()
    else:
        shutil.copytree(staged / "first", folder)
    if wrong == "versions":
        (folder / "brain_mr_net" / "2").mkdir()
    if wrong == "two":
        text = (folder / "brain_mr" / "model.yaml").read_text()
        (folder / "second").mkdir()
        (folder / "second" / "model.yaml").write_text(text.replace("brain_mr", "second"))
    before = snapshot(repository)
    with pytest.raises(PublishError, match="expected one"):
        publish(folder, repository)
    assert snapshot(repository) == before


def test_a_repository_that_is_not_there_is_not_made(staged: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="make it first"):
        publish(staged / "first", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_two_publications_do_not_meet(staged: Path, repository: Path) -> None:
    before = snapshot(repository)
    held = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="another publication"):
            publish(staged / "first", repository)
    finally:
        os.close(held)
    assert snapshot(repository) == before
    publish_first(staged, repository)


CASES = ("new", "next", "in place", "replacing")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, staged: Path, repository: Path) -> Case:
    if request.param == "new":
        return Case(repository, staged / "first")
    publish_first(staged, repository)
    if request.param == "next":
        return Case(repository, staged / "second")
    if request.param == "in place":
        return Case(repository, staged / "renamed")
    publish(staged / "second", repository)
    return Case(repository, staged / "finer", replace=True)


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing is an operation that may fail, but its effect would only show after a power cut."""
    monkeypatch.setattr(disk, "_flush", lambda path: None)


def copies(case: Case, tmp_path: Path) -> Iterator[Path]:
    """The case's repository, again and again."""
    number = 0
    while True:
        number += 1
        yield shutil.copytree(case.repository, tmp_path / str(number) / "models")


def run(case: Case, repository: Path, disk: Disk) -> Published:
    return publish(case.staged, repository, replace=case.replace, disk=disk)


@pytest.mark.usefixtures("unflushed")
def test_a_failure_at_any_operation_leaves_everything_as_it_was(case: Case, tmp_path: Path) -> None:
    """Except after the journal is gone: then everything is there, and only litter may remain."""
    fresh = copies(case, tmp_path)
    before = snapshot(case.repository)
    whole, watched = next(fresh), WatchedDisk(lambda number, name, arguments: None)
    run(case, whole, watched)
    after = snapshot(whole)
    assert before != after
    for number, name in enumerate(watched.done, 1):
        repository = next(fresh)
        failing = FailingDisk(number, number)
        if number > len(watched.done) - 1:
            assert name == "remove_tree"
            assert run(case, repository, failing).changed
            assert snapshot(repository) == after
        else:
            with pytest.raises(PublishError, match=r"as it was.*No space left") as caught:
                run(case, repository, failing)
            assert str(repository) in str(caught.value)
            assert snapshot(repository) == before, (number, name)
            assert not work_folder(repository).exists()
        run(case, repository, Disk())
        assert snapshot(repository) == after, (number, name)
        assert not work_folder(repository).exists()


@pytest.mark.usefixtures("unflushed")
def test_a_disk_that_fails_for_good_is_mended_by_the_next_publication(
    case: Case, tmp_path: Path
) -> None:
    """Undoing fails as well; nothing is lost, and the next one undoes it."""
    fresh = copies(case, tmp_path)
    before = snapshot(case.repository)
    whole, watched = next(fresh), WatchedDisk(lambda number, name, arguments: None)
    run(case, whole, watched)
    half = 0
    for number in range(1, len(watched.done)):
        repository = next(fresh)
        with pytest.raises(PublishError) as caught:
            run(case, repository, FailingDisk(number, ENDLESS))
        half += "half changed" in str(caught.value)
        recover(repository, Disk())
        assert snapshot(repository) == before, number
        assert not work_folder(repository).exists()
    assert half > 0


@pytest.mark.usefixtures("unflushed")
def test_a_publication_killed_at_any_operation_is_undone_by_the_next(
    case: Case, tmp_path: Path
) -> None:
    fresh = copies(case, tmp_path)
    before = snapshot(case.repository)
    whole, watched = next(fresh), WatchedDisk(lambda number, name, arguments: None)
    run(case, whole, watched)
    after = snapshot(whole)
    repositories = [next(fresh) for _ in range(len(watched.done) + 1)]
    code = (
        "import json, sys; from pathlib import Path\n"
        "from tests.publications import kill_everywhere\n"
        "replace, staged, *rest = int(sys.argv[1]), *map(Path, sys.argv[2:])\n"
        "print(json.dumps(kill_everywhere(staged, rest, replace=bool(replace))))"
    )
    command = [sys.executable, "-c", code, str(int(case.replace)), str(case.staged)]
    done = subprocess.run(
        [*command, *map(str, repositories)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert json.loads(done.stdout) == [*watched.done, ""]
    half = 0
    for repository, name in zip(repositories, [*watched.done, ""], strict=True):
        half += snapshot(repository) not in (before, after)
        recover(repository, Disk())
        committed = name in {"remove_tree", ""}
        assert snapshot(repository) == (after if committed else before), name
        run(case, repository, Disk())
        assert snapshot(repository) == after, name
        assert not work_folder(repository).exists()
    journal_and_first = 2
    assert half == watched.done.count("move") - journal_and_first


@pytest.mark.parametrize("place", ["the mount point itself", "a folder in it"])
def test_a_full_disk(specs: dict[str, ModelSpec], tmp_path: Path, place: str) -> None:
    """A file system of one megabyte, and a network of three."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        repository = mounted if place == "the mount point itself" else mounted / "models"
        repository.mkdir(exist_ok=True)
        publish(stage_model(tmp_path / "small", specs["first"], b"small"), repository)
        before = snapshot(mounted)
        large = stage_model(tmp_path / "large", specs["first"], os.urandom(3 << 20))
        with pytest.raises(PublishError, match=r"as it was.*model\.onnx.*No space left"):
            publish(large, repository)
        assert snapshot(mounted) == before
        next_one = stage_model(tmp_path / "next", specs["first"], b"next")
        assert publish(next_one, repository).version == 2
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_file_that_may_not_grow(
    specs: dict[str, ModelSpec], repository: Path, tmp_path: Path
) -> None:
    """The kernel's limit on file size, where no file system can be mounted."""
    large = stage_model(tmp_path / "large", specs["first"], os.urandom(1 << 20))
    before = snapshot(repository)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from export.errors import PublishError; from export.repository.publishing import publish\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))\n"
        "try: publish(*map(Path, sys.argv[1:]))\n"
        "except PublishError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(large), str(repository)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "model.onnx: File too large" in done.stderr
    assert snapshot(repository) == before
