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


def requirements() -> dict[str, list[str]]:
    """The sections of requirements.txt, without their comments."""
    sections: dict[str, list[str]] = {}
    for line in (HERE / "requirements.txt").read_text().splitlines():
        if line.startswith("# ["):
            section = sections.setdefault(line[3 : line.index("]")], [])
        elif text := line.split("#")[0].strip():
            section.append(text)
    return sections


def version() -> str:
    """The one version number, of ``src/__init__.py``."""
    text = (HERE / "src" / "__init__.py").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__"))


extras = requirements()
run, test_tools = extras.pop("run"), extras.pop("dev")
extras["all"] = [requirement for section in extras.values() for requirement in section]
extras["dev"] = extras["all"] + test_tools
extras["run"] = []  # what all get, for those who ask for it by name

setup(
    name="isdfine",
    version=version(),
    description="Train, distil, export and measure DETR-family detectors (D-FINE and ISD-FINE)",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The ISD-FINE authors",
    license="Apache-2.0",
    license_files=["LICENSES/Apache-2.0.txt"],
    keywords=["object detection", "DETR", "D-FINE", "RT-DETR", "knowledge distillation", "COCO", "ONNX", "PyTorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    project_urls={  # what it builds on; its own address is added where it is hosted
        "D-FINE (paper)": "https://arxiv.org/abs/2410.13842",
        "D-FINE (official code)": "https://github.com/Peterande/D-FINE",
        "RT-DETR (official code)": "https://github.com/lyuwenyu/RT-DETR",
    },
    python_requires=">=3.10",
    package_dir={"isdfine": "src", "isdfine.configs": "configs"},
    packages=["isdfine", "isdfine.configs", *(f"isdfine.{name}" for name in find_packages("src"))],
    package_data={
        "isdfine": ["py.typed"],
        "isdfine.configs": ["**/*.yml"],
        "isdfine.core.config": ["*.yml"],
        "isdfine.data.classes": ["*.yml"],
        "isdfine.viz": ["*.html"],
        "isdfine.weights": ["*.yml"],
    },
    install_requires=run,
    entry_points={"console_scripts": ["isdfine = isdfine.commands:main"]},
    extras_require=extras,
)
