"""What a worker tells its generator."""

from __future__ import annotations

from legato.bench.worker import without_numbers


def test_errors_of_many_sequences_fall_together() -> None:
    """Texts that differ in numbers only are one kind of error."""
    texts = [f"sequence {n} is not known; step {n + 3} was refused\n" for n in (1, 22, 333)]

    assert {without_numbers(text) for text in texts} == {
        "sequence # is not known; step # was refused"
    }
