# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Print parameters, FLOPs and memory of the models that config files describe.

isdfine info -c configs/dfine/dfine_hgnetv2_*_coco.yml
isdfine info -c configs/roadmap/*.yml --markdown
isdfine info -c configs/quickstart.yml --size 480 640
isdfine info -c configs/dfine/dfine_hgnetv2_*_coco.yml --device cuda

Needs no data and no weights. Exit codes: 0, 2 a config that cannot be read or built.
"""

import argparse

import isdfine

from ..bench.model_info import convention, model_info, rows_of
from ..bench.timing import table
from ..core.command import add_option, command_parser, one_line_errors
from ..core.environment import pick_device
from ..core.errors import ConfigError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__, epilog=convention())
    add_option(parser, "config", nargs="+", required=True, metavar="YAML", dest="configs", help="files of the models")
    add_option(parser, "update")
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"),
                        help="image in pixels (default: eval_spatial_size)")  # fmt: skip
    parser.add_argument("--device", help="cuda or cuda:0: measure memory there (default: it is counted, on no device)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    device = None if options.device is None else pick_device(options.device)
    if device is not None and device.type != "cuda":
        raise ConfigError("--device is for measuring memory on a GPU: leave it out, and memory is counted")
    configs = [isdfine.load_config(path, options.update) for path in options.configs]
    models = [model_info(config, options.size, device) for config in configs]
    print(table(rows_of(models), markdown=options.markdown))
    print("\n" + convention(device))
    return 0
