"""The record of the mutation tests covers what it says, and its threshold held."""

from __future__ import annotations

import json

import pytest

from tests.proof.mutation import MAX_EQUIVALENT, MIN_KILLED, ModuleRecord, modules, proof_of
from tests.proof.mutation_equivalents import EQUIVALENT
from tests.proof.records import FOLDER

pytestmark = pytest.mark.unit


def test_every_crypto_and_queue_module_was_tried_and_enough_mutants_died() -> None:
    record = json.loads((FOLDER / "mutation.json").read_text())
    found = record["figures"]["modules"]
    assert set(found) == set(modules())
    assert record["held"], [check for check in record["checks"] if not check["held"]]
    for name, module in found.items():
        alive = len(module["survived"]) + len(module["equivalent"])
        assert module["killed"] + module["timed_out"] + alive == module["mutants"], name
        assert all(len(reason) > 20 for reason in module["equivalent"].values()), name


def test_equivalent_mutants_are_of_modules_that_are_there() -> None:
    assert set(EQUIVALENT) <= set(modules())


def test_the_proof_counts_what_lives() -> None:
    def record(mutants: int, killed: int, same: int) -> ModuleRecord:
        alive = tuple(f"line {n}" for n in range(mutants - killed - same))
        return ModuleRecord("", mutants, killed, 0, alive, {f"same {n}": "" for n in range(same)})

    names = modules()
    good = {name: record(100, 90, 2) for name in names}
    assert proof_of(good).held
    assert not proof_of({name: good[name] for name in names[1:]}).held
    edge = {name: record(100, round(MIN_KILLED * 100), 0) for name in names}
    assert proof_of(edge).held
    assert not proof_of(edge | {names[0]: record(100, round(MIN_KILLED * 100) - 1, 0)}).held
    lazy = round(MAX_EQUIVALENT * 100) + 1
    assert not proof_of({name: record(100, 90, lazy) for name in names}).held
