"""Candidates for the batch axis, likeliest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.repository.config import ModelConfig
from legato.runtimes.discovery.axes import choices, likely_axes
from legato.runtimes.discovery.graph import Graph, freed, is_freed
from legato.runtimes.discovery.pairing import GraphTensor
from legato.runtimes.discovery.plan import make_plan


@pytest.fixture
def plan():
    """Plan a graph of float tensors given by their dimensions."""

    def plan(taken, **said):
        tensors = [
            tuple(GraphTensor(name, "float32", dims) for name, dims in listed)
            for listed in (taken, [("y", (1, 1))])
        ]
        config = ModelConfig(name="m", folder=Path(), **said)
        return make_plan(config, "m", Graph(*tensors, (), ()), None)

    return plan


def test_an_axis_called_batch_is_tried_before_others(plan):
    """A name of time comes last."""
    found = list(choices(plan([("x", ("frames", "other", "batch"))]), {}))

    assert found == [{"x": 2}, {"x": 1}, {"x": 0}]


def test_an_axis_that_is_hinted_comes_first(plan):
    """Whatever it is called."""
    found = next(choices(plan([("x", ("frames", "batch"))]), {"x": 0}))

    assert found == {"x": 0}


def test_a_symbol_that_is_the_batch_is_the_batch_everywhere(plan):
    """Where one input has it as its batch, another that has it, too, has no other batch."""
    found = list(choices(plan([("x", ("n", "k")), ("z", (freed(0), "n"))]), {}))

    assert {"x": 0, "z": 1} in found
    assert {"x": 0, "z": 0} not in found


def test_a_batch_that_the_file_fixes_leaves_no_choice(plan):
    """Unless the ones of the file are loosened."""
    assert list(choices(plan([("x", (1, 4))]), {})) == []
    assert list(choices(plan([("x", (freed(0), 4))]), {})) == [{"x": 0}]


def test_what_the_config_says_is_the_only_choice(plan):
    """An axis that is open is believed."""
    inputs = {"x": {"batch_axis": 1}}

    assert list(choices(plan([("x", ("batch", "n"))], inputs=inputs), {})) == [{"x": 1}]


def test_the_one_row_of_a_fixed_model_lies_on_an_axis_of_size_one(plan):
    """Inputs and outputs alike."""
    assert likely_axes(plan([("x", (4, 1))]), {}) == {"x": 1, "y": 0}


@pytest.mark.parametrize(("dim", "free"), [(freed(2), True), ("batch", False), (1, False)])
def test_a_loosened_dimension_is_told_from_others(dim, free):
    """By its name."""
    assert is_freed(dim) is free
