# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What isdfine ablate does: a matrix of runs from one YAML file, trained as processes, compared seed by seed."""
