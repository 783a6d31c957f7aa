# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet. Each message says what was wrong, where, and what to do."""


class ConfigError(ValueError):
    """A YAML file or an override says something the code cannot do."""


class DataError(ValueError):
    """An annotation file, an image or a box cannot be used."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


class NonFiniteError(RuntimeError):
    """A loss term or the gradient norm became NaN or infinite."""


class RankError(RuntimeError):
    """Another process of a distributed run is missing, gone or stuck."""
