"""Lies beside a model, which imports it."""


def double(values):
    values *= 2  # inputs may be written to
    return values
