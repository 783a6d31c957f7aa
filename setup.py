# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging: the folder ``src`` is imported as ``isdfine``."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

if "develop" in sys.argv:
    # The legacy path puts this folder, not its parent package, on sys.path: it "succeeds" and nothing can be imported.
    sys.exit("setup.py develop cannot map src to isdfine: run `pip install --use-pep517 -e .` instead")

HERE = Path(__file__).parent


def requirements(section: str) -> list[str]:
    """Read one ``[section]`` of requirements.txt without its comments."""
    wanted, current = [], ""
    for line in (HERE / "requirements.txt").read_text().splitlines():
        text = line.split("#")[0].strip()
        if line.startswith("# ["):
            current = line[3 : line.index("]")]
        elif text and current == section:
            wanted.append(text)
    return wanted


setup(
    name="isdfine",
    version="0.1.0",
    description="Train, distil, export and measure DETR-family detectors (D-FINE and ISD-FINE)",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"isdfine": "src"},
    packages=["isdfine", *(f"isdfine.{name}" for name in find_packages("src"))],
    package_data={
        "isdfine": ["py.typed"],
        "isdfine.core.config": ["*.yml"],
        "isdfine.data.classes": ["*.yml"],
        "isdfine.viz": ["*.html"],
    },
    install_requires=requirements("run"),
    extras_require={"dev": requirements("dev"), "video": requirements("video")},
)
