#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Print parameters and FLOPs of the models that config files describe.

python tools/benchmark/model_info.py -c configs/dfine/dfine_hgnetv2_*_coco.yml
python tools/benchmark/model_info.py -c configs/roadmap/*.yml --markdown
python tools/benchmark/model_info.py -c configs/quickstart.yml --size 480 640

Needs no data and no weights. Exit codes: 0, 2 a config that cannot be read or built.
"""

import argparse
import sys

import isdfine
from isdfine.core.errors import ConfigError
from isdfine.deploy.model_info import CONVENTION, model_info, table


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CONVENTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", nargs="+", required=True, metavar="YAML", dest="configs")
    parser.add_argument("-u", "--update", nargs="+", action="extend", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="image in pixels (default: eval_spatial_size)"
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    try:
        rows = [model_info(isdfine.load_config(path, options.update), options.size) for path in options.configs]
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows, markdown=options.markdown))
    print("\n" + CONVENTION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
