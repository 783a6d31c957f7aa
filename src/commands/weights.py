# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Published weights by name; a name stands wherever a checkpoint is asked for, and is downloaded when it is first used.

isdfine weights list
isdfine weights get dfine-s-coco dfine-s-obj365
isdfine weights path dfine-s-coco

They are kept in the folder $ISDFINE_CACHE. get prints where they are. path prints it without a download. Exit codes: 0;
1 (path) they are not there yet; 2 they cannot be got.
"""

import argparse

from ..core.command import command_parser, one_line_errors
from ..core.environment import setup_logging
from ..weights.cache import cache_folder, fetch, file_of, named, place_of
from ..weights.table import TABLE


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | get | path")
    actions.add_parser("list", help="names, classes, licences, sources, and which of them are here")
    for action, text in (("get", "download what is not here, compare it with its SHA-256"), ("path", "where it lies")):
        actions.add_parser(action, help=text).add_argument("names", nargs="+", metavar="NAME", help="as list shows it")
    return parser.parse_args(arguments)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    setup_logging()
    if options.action == "list":
        print(f"  {'name':<26} {'classes':<15} {'licence':<11} from")
        for entry in TABLE.values():
            here = "*" if file_of(entry).is_file() else " "
            print(f"{here} {entry.name:<26} {entry.classes or '-':<15} {entry.licence:<11} {entry.url}")
        print(f"* = here, in {cache_folder()}")
        return 0
    wanted = [named(name) for name in options.names]
    for entry in wanted:
        print(fetch(entry) if options.action == "get" else place_of(entry))
    return 0 if all(file_of(entry).is_file() for entry in wanted) else 1
