"""The search for settings with a machine that is made up, its record, and what follows from it."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.engines.plan_key import Machine, PlanOptions
from export.errors import EngineError, RecipeError
from export.recipe import CpuPrecision, load_recipe
from export.repository.configuration import configuration_text
from export.repository.messages import configuration
from export.repository.options import Profile, Serving, Step
from export.repository.publishing import Published, publish
from export.tuned import (
    CPU_DEFAULTS,
    GPU_DEFAULTS,
    SCHEMA,
    CpuSettings,
    GpuSettings,
    Trial,
    TunedCpu,
    TunedGpu,
    Tuning,
    read_tuning,
    tuning_path,
    write_tuning,
)
from export.tuning.axes import cpu_axes, gpu_axes
from export.tuning.comparing import NO_SLOWER, Limit, Pair, Turn, Verdict, compare
from export.tuning.page import chosen, tuning_tables
from export.tuning.plans import PlanMeasuring
from export.tuning.searching import Axis, Choice, Search, SearchOptions
from export.tuning.triton import TurnLength
from preprocess.serving import configured
from preprocess.serving.configured import read_configuration
from preprocess.spec import ModelSpec
from tests.export_networks import write_recipe
from tests.publications import stage_model

pytestmark = pytest.mark.unit

TRIAL = Trial("streams auto ▶ 1", "better", 7, 1.25, 0.8, 1.0, 1.1, 31.2, 60.1, 44.0)
SETTINGS = CpuSettings(streams=1, requests=3, pinning=False, instances=2)
TUNING = Tuning(
    schema=SCHEMA,
    model="tiny",
    measured="2026-11-23T11:00:00+00:00",
    minutes=10.0,
    p99_limit_ms=None,
    cores=2,
    others_share=0.1,
    facts={"processor": "made up"},
    cpu=(
        TunedCpu(CpuPrecision.F32, SETTINGS, TRIAL, (TRIAL,)),
        TunedCpu(CpuPrecision.INT8, CPU_DEFAULTS, None, (Trial("instances 1 ▶ 2", "no gain"),)),
    ),
    gpu=(TunedGpu("fp16", GpuSettings(16, 5), TRIAL, (TRIAL,)),),
)
TURN_S = 2.0
OPEN_S = 5.0


class MadeUp:
    """A machine whose clock moves only while it is opened or measured.

    Args:
        speed: Slices per second of some settings.
        p99: Milliseconds of some settings.
        noise: Factors that both turns of a pair meet, then single ones, over and over.
        answers: What some settings answer.
    """

    def __init__(
        self,
        speed: Callable[[CpuSettings], float],
        p99: Callable[[CpuSettings], float] = lambda settings: 10.0,
        noise: tuple[float, ...] = (1.0,),
        answers: Callable[[CpuSettings], str] = lambda settings: "same",
    ) -> None:
        self.now = 100.0
        self.open = 0
        self.most_open = 0
        self.opened_settings: list[CpuSettings] = []
        self._speed, self._p99, self._answers = speed, p99, answers
        self._noise = cycle(noise)

    @contextmanager
    def opened(self, settings: CpuSettings) -> Iterator[Any]:
        self.now += OPEN_S
        self.opened_settings.append(settings)
        if self._speed(settings) == 0:
            raise EngineError("Triton cannot serve it")
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        machine = self

        class Subject:
            answers = machine._answers(settings)

            def turn(self) -> Turn:
                machine.now += TURN_S
                rate = machine._speed(settings) * next(machine._noise)
                return Turn(rate, 1000 / machine._speed(settings), (machine._p99(settings),) * 9)

        try:
            yield Subject()
        finally:
            self.open -= 1

    def search(
        self, *axes: Axis, seconds: float = 1e6, limit: Limit = NO_SLOWER, start: Any = CPU_DEFAULTS
    ) -> Choice[CpuSettings]:
        options = SearchOptions(seconds, TURN_S, limit)
        return Search(CPU_DEFAULTS, axes, self.opened, options, lambda: self.now).run(start)


STREAMS = Axis("streams", (None, 1, 2, 4, 8))
REQUESTS = Axis("requests", (None, 2, 4))


def by_streams(settings: CpuSettings) -> float:
    """Four streams are best, then four requests."""
    return {None: 30.0, 1: 20.0, 2: 31.0, 4: 40.0, 8: 35.0}[settings.streams] * (
        1.1 if settings.requests == 4 else 1.0
    )


def test_the_best_of_each_axis_is_chosen_and_everything_is_closed() -> None:
    machine = MadeUp(by_streams)
    choice = machine.search(STREAMS, REQUESTS)
    assert choice.settings == CpuSettings(streams=4, requests=4)
    assert choice.complete
    assert choice.gain is not None
    assert choice.gain.throughput == pytest.approx(44 / 30, abs=1e-3)
    assert choice.gain.change == "streams auto ▶ 4, requests auto ▶ 4"
    assert [one.verdict for one in choice.trials] == [
        Verdict.SLOWER,  # 1 against auto
        Verdict.BETTER,  # 2
        Verdict.BETTER,  # 4 against 2
        Verdict.SLOWER,  # 8 against 4
        Verdict.NO_GAIN,
        Verdict.BETTER,
        Verdict.BETTER,  # the last comparison
    ]
    assert (machine.open, machine.most_open) == (0, 2)


def test_what_breaks_the_limit_is_not_chosen_however_fast_it_is() -> None:
    machine = MadeUp(by_streams, p99=lambda one: 99.0 if one.streams == 4 else 10.0)
    assert machine.search(STREAMS).settings == CpuSettings(streams=8)
    assert machine.search(STREAMS, limit=Limit(20.0)).settings == CpuSettings(streams=8)
    assert machine.search(STREAMS, limit=Limit(120.0)).settings == CpuSettings(streams=4)


def test_settings_within_the_limit_beat_faster_ones_beyond_it() -> None:
    machine = MadeUp(by_streams, p99=lambda one: 10.0 if one.streams == 1 else 30.0)
    choice = machine.search(STREAMS, limit=Limit(20.0))
    assert choice.settings == CpuSettings(streams=1)


def test_noise_alone_changes_nothing() -> None:
    """Turns vary by a third, the settings by less than 2 %."""
    machine = MadeUp(
        lambda one: 30.0 + 0.1 * (one.streams or 0), noise=(1.0, 0.7, 1.2, 0.9, 1.1, 0.8, 1.3)
    )
    choice = machine.search(STREAMS)
    assert (choice.settings, choice.gain) == (CPU_DEFAULTS, None)


def test_luck_is_not_confirmed() -> None:
    """What looked better while it was tried is no better in the last comparison."""
    machine = MadeUp(lambda one: 40.0 if one.streams == 4 and machine.now < 133 else 30.0)
    choice = machine.search(Axis("streams", (4,)))
    assert [one.verdict for one in choice.trials] == [Verdict.BETTER, Verdict.NO_GAIN]
    assert (choice.settings, choice.gain) == (CPU_DEFAULTS, None)


def test_other_answers_are_never_chosen() -> None:
    machine = MadeUp(by_streams, answers=lambda one: str(one.streams))
    choice = machine.search(STREAMS)
    assert {one.verdict for one in choice.trials} == {Verdict.OTHER_ANSWERS}
    assert choice.settings == CPU_DEFAULTS


def test_what_does_not_run_is_said_and_passed_over() -> None:
    machine = MadeUp(lambda one: 0.0 if one.streams == 1 else by_streams(one))
    choice = machine.search(STREAMS)
    assert choice.settings == CpuSettings(streams=4)
    assert choice.trials[0] == Trial("streams auto ▶ 1", "does not run: Triton cannot serve it")
    assert machine.open == 0


def test_what_stops_answering_while_it_is_measured_is_passed_over() -> None:
    machine = MadeUp(by_streams)
    fails = CpuSettings(streams=4)

    def no_answer() -> Turn:
        raise EngineError("first\nno answer")

    @contextmanager
    def opened(settings: CpuSettings) -> Iterator[Any]:
        with machine.opened(settings) as subject:
            if settings == fails:
                subject.turn = no_answer
            yield subject

    options = SearchOptions(1e6, TURN_S)
    choice = Search(CPU_DEFAULTS, [STREAMS], opened, options, lambda: machine.now).run(CPU_DEFAULTS)
    assert Trial("streams 2 ▶ 4", "does not run: no answer") in choice.trials
    assert choice.settings == CpuSettings(streams=8)
    assert machine.open == 0


def test_it_begins_with_the_settings_in_use() -> None:
    machine = MadeUp(by_streams)
    choice = machine.search(REQUESTS, start=CpuSettings(streams=8))
    assert machine.opened_settings[0] == CpuSettings(streams=8)
    assert choice.settings == CpuSettings(streams=8, requests=4)


@given(seconds=st.floats(1, 400))
def test_the_time_is_kept(seconds: float) -> None:
    """Confirmation included; only opening what is in use cannot be left out."""
    machine = MadeUp(by_streams)
    begin = machine.now
    choice = machine.search(STREAMS, REQUESTS, seconds=seconds)
    assert machine.now - begin <= max(seconds, OPEN_S)
    assert choice.complete == (len({one.change for one in choice.trials}) >= 7)
    assert choice.gain is None or choice.gain.throughput > 1.02


RATES = st.lists(st.tuples(st.floats(10, 99), st.floats(10, 99)), min_size=1, max_size=9)


def pairs_of(rates: list[tuple[float, float]]) -> list[Pair]:
    return [Pair(*(Turn(rate, 1000 / rate, (10.0,)) for rate in pair)) for pair in rates]


@given(RATES)
def test_a_comparison_the_other_way_round_says_the_opposite(
    rates: list[tuple[float, float]],
) -> None:
    opposite = {"better": "slower", "slower": "better", "no gain": "no gain"}
    forth = compare("", pairs_of(rates), Limit())
    back = compare("", pairs_of([(b, a) for a, b in rates]), Limit())
    assert back.verdict == opposite[forth.verdict]


@given(st.lists(st.floats(0.981, 1.019), min_size=1, max_size=9))
def test_less_than_the_least_gain_is_none(ratios: list[float]) -> None:
    assert compare("", pairs_of([(50, 50 * one) for one in ratios]), Limit()).verdict == "no gain"


def test_cpu_time_decides_where_throughput_does_not() -> None:
    def pair(noise: float, cpu: float) -> Pair:
        return Pair(Turn(30.0, 60.0, (10.0,)), Turn(30.0 * noise, cpu, (10.0,)))

    less = compare("", [pair(0.8, 50.0), pair(1.3, 51.0), pair(0.99, 52.0)], Limit())
    assert (less.verdict, less.cpu) == ("better", 0.85)
    harmed = compare("", [pair(0.8, 50.0), pair(1.3, 51.0), pair(0.95, 52.0)], Limit())
    assert harmed.verdict == "no gain"
    more = compare("", [pair(0.8, 70.0), pair(1.3, 66.0), pair(0.9, 69.0)], Limit())
    assert more.verdict == "slower"


def test_what_contradicts_itself_is_not_measured_to_the_end() -> None:
    machine = MadeUp(lambda one: 30.0, noise=(1.0, 1.1, 1.0, 1.2))
    choice = machine.search(Axis("streams", (2,)))
    [trial] = choice.trials
    assert (trial.verdict, trial.pairs) == ("no gain", 2)


def test_from_six_pairs_on_one_may_contradict() -> None:
    rates = [(30.0, 33.0)] * 4 + [(30.0, 10.0)]
    assert compare("", pairs_of(rates), Limit()).verdict == "no gain"
    assert compare("", pairs_of([*rates, (30.0, 33.0)]), Limit()).verdict == "better"


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_what_is_tried_can_be_served(cores: int) -> None:
    """Nothing that the record refuses, and nothing that is served without a search anyway."""
    streams = max(1, cores // 2)
    for axis in cpu_axes(cores, streams):
        for value in axis.values:
            settings = dataclasses.replace(CPU_DEFAULTS, **{axis.name: value})
            assert settings.instances <= cores
            assert settings.streams != streams
            assert settings.requests != streams + 1
    for axis in gpu_axes((1, 8, 32)):
        assert all(dataclasses.replace(GPU_DEFAULTS, **{axis.name: one}) for one in axis.values)


def test_the_record_survives_its_file(tmp_path: Path) -> None:
    path = tuning_path(tmp_path / "tiny.yaml")
    assert read_tuning(path, "tiny") is None
    write_tuning(TUNING, path)
    assert path.name == "tiny.tuning.json"
    assert read_tuning(path, "tiny") == TUNING
    assert [*tmp_path.iterdir()] == [path]


def spoil(content: dict[str, Any], *keys: Any, value: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schema",), "hounsfield.tuning/2", "hounsfield.tuning/1"),
        (("model",), "other", "expected the model 'tiny', got 'other'"),
        (("colour",), 1, "unknown key 'colour'"),
        (("cores",), 0, "cores 0: 1 to 65536"),
        (("cores",), "2", "expected int"),
        (("cpu", 0, "precision"), "fp8", "fp8"),
        (("cpu", 1, "precision"), "f32", "each precision once"),
        (("cpu", 0, "settings", "streams"), 0, "streams 0: 1 to 1024"),
        (("cpu", 0, "settings", "streams"), 1.5, "streams: expected int"),
        (("cpu", 0, "settings", "pinning"), 1, "pinning: expected bool"),
        (("cpu", 0, "settings", "instances"), 0, "instances 0: 1 to 1024"),
        (("cpu", 0, "settings", "delay_us"), 0, "unknown key 'delay_us'"),
        (("gpu", 0, "settings", "optimisation_level"), 6, "optimisation_level 6: 0 to 5"),
        (("cpu", 0, "trials", 0, "pairs"), None, "pairs"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    tmp_path: Path, keys: tuple[Any, ...], value: Any, message: str
) -> None:
    """By whoever reads the recipe, with the file's name."""
    recipe = write_recipe(tmp_path)
    path = tuning_path(recipe.path)
    write_tuning(dataclasses.replace(TUNING, model=recipe.name), path)
    content = json.loads(path.read_text())
    if keys[0] != "model":
        assert load_recipe(recipe.path).tuning is not None
    spoil(content, *keys, value=value)
    path.write_text(json.dumps(content))
    message = message.replace("'tiny'", repr(recipe.name))
    with pytest.raises(RecipeError, match=rf"MODEL\.tuning\.json: .*{message}"):
        load_recipe(recipe.path)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    tuning_path(recipe.path).write_text("{")
    with pytest.raises(RecipeError, match="remove it and run"):
        load_recipe(recipe.path)


def test_a_recipe_is_served_with_what_was_chosen_for_its_precision(tmp_path: Path) -> None:
    recipe = dataclasses.replace(write_recipe(tmp_path), tuning=TUNING)
    serving = Serving.of(recipe)
    assert (serving.tuned_cpu, serving.cores) == (SETTINGS, 2)
    assert (serving.max_batch(Profile.CPU), serving.max_batch(Profile.GPU)) == (8, 32)
    assert (serving.batch_gpu, serving.tuned_gpu.optimisation_level) == ((1, 16, 32), 5)
    gpu = TunedGpu("fp16", GpuSettings(64), None, ())
    beyond = dataclasses.replace(TUNING, gpu=(gpu,))
    with pytest.raises(RecipeError, match=r"best_batch 64 .* expected 1 to 32"):
        Serving.of(dataclasses.replace(recipe, tuning=beyond))


def test_a_search_that_chose_nothing_changes_no_file(brain_mr: ModelSpec) -> None:
    for step in Step:
        for profile in Profile:
            untouched = configuration_text(brain_mr, Serving(), step, profile)
            assert configuration_text(brain_mr, Serving(cores=2), step, profile) == untouched


@pytest.mark.parametrize("cores", [2, 8])
def test_the_server_reads_what_the_export_wrote(
    brain_mr: ModelSpec,
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On as many cores as were measured; on others OpenVINO decides, and one line says so."""
    settings = CpuSettings(
        streams=2, threads=2, requests=5, single_threads=1, pinning=False, hyper_threading=True
    )
    serving = Serving(tuned_cpu=settings, cores=2)
    text = configuration_text(brain_mr, serving, Step.NET, Profile.CPU)
    assert "on 2 cores" in text
    config = MessageToDict(text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    monkeypatch.setattr(configured, "available_cores", lambda: cores)
    args = {
        "model_name": "brain_mr_net",
        "model_version": "1",
        "model_repository": str(tmp_path),
        "model_config": json.dumps(config),
    }
    got = read_configuration(args).compilation
    said = capsys.readouterr().err
    if cores == 2:
        assert (got, said) == (settings.compilation, "")
    else:
        assert got == configured.Compilation()
        assert said.count("\n") == 1
        assert "tuned on 2 cores, this machine has 8" in said


def test_the_instances_reach_the_networks_configuration_alone(brain_mr: ModelSpec) -> None:
    serving = Serving(tuned_cpu=CpuSettings(instances=2), cores=2)
    for step in Step:
        config = configuration(brain_mr, serving, step, Profile.CPU)
        expected = {Step.ENSEMBLE: [], Step.PREP: [1], Step.NET: [2]}[step]
        assert [one.count for one in config.instance_group] == expected


def test_what_was_chosen_is_published_without_a_new_version(
    brain_mr: ModelSpec, tmp_path: Path
) -> None:
    """It decides how fast an answer comes, not which: older versions stay right."""
    repository = tmp_path / "models"
    repository.mkdir()
    plain = stage_model(tmp_path / "plain", brain_mr, b"network")
    tuned = stage_model(tmp_path / "tuned", brain_mr, b"network", tuned_cpu=SETTINGS, cores=2)
    publish(plain, repository)
    assert publish(tuned, repository) == Published("brain_mr", 1, changed=True)
    assert not publish(tuned, repository).changed


def test_plans_are_tried_as_they_would_be_built(tmp_path: Path) -> None:
    here = Machine("NVIDIA H200", "9.0", "10.5.0")
    built: list[PlanOptions] = []

    class Engine:
        name = "made up"

        def run(self, images: Any) -> dict[str, Any]:
            asked.append(images.shape)
            return {"mask": np.zeros(len(images))}

    asked: list[tuple[int, ...]] = []
    measuring = PlanMeasuring(
        tmp_path / "model.fp16.onnx",
        PlanOptions(canvas=(64, 48)),
        here,
        tmp_path,
        TurnLength(1e-4, 1e-4),
        build=lambda source, out, options, cache, machine: built.append(options),
        load=lambda plan, machine: Engine(),
    )
    for settings in (GPU_DEFAULTS, GpuSettings(best_batch=16, optimisation_level=5)):
        with measuring.opened(settings) as subject:
            turn = subject.turn()
            assert turn.slices_per_s > 0
            assert turn.cpu_ms == 0
    assert [(one.batch, one.optimisation_level) for one in built] == [
        ((1, 8, 32), 3),
        ((1, 16, 32), 5),
    ]
    assert {*asked} == {(1, 1, 64, 48), (16, 1, 64, 48)}


def test_the_tables_say_what_was_tried_and_chosen() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in tuning_tables(TUNING):
        console.print(table)
    text = console.export_text()
    assert "tiny, cpu f32" in text
    assert "streams auto ▶ 1" in text
    f32, int8, gpu = chosen(TUNING)
    assert "1.25 x slices/s, 0.80 x CPU time" in f32
    assert "the defaults stay" in int8
    assert "optimisation_level auto ▶ 5" in gpu
