# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The card of a weights file: what a model is, which classes it knows, how good it is and under which licence it comes.

A model is kept as ``model.safetensors`` with ``model.json`` beside it. The weights file carries the same card in its
metadata, so that it still says what it is when it travels alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..files import whole_file
from ..registry import fits
from . import NO_SUM, SUM_KEY, write_with_sum

FORMAT = 1
"""Version of the card's layout. It grows when an entry changes its meaning; older cards stay readable."""
UNKNOWN_LICENCE = "unknown, set --licence"
_METADATA_KEY = "isdfine_card"
_WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about one weights file.

    Raises:
        CheckpointError: an entry of the wrong type, or class names and ids that do not fit each other.
    """

    config: dict[str, Any]
    """The resolved config as plain data; ``yaml.safe_dump`` of it can be trained from."""
    label_space: dict[str, Any] | None = None
    """``names`` and ``category_ids`` of the C classes in label order, as ``LabelSpace`` has them; None = unknown."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Results by name, for example ``AP``."""
    licence: str = UNKNOWN_LICENCE
    """Licence of the weights, an SPDX identifier where there is one."""
    source: str = ""
    """Where the weights come from: the file they were converted from, in words."""
    sha256: str = ""
    """Of the weights file, in hexadecimal digits; empty inside the weights file itself."""
    version: str = ""
    """Version of isdfine that wrote the card."""
    date: str = ""
    """When it was written, ISO 8601 in UTC."""
    notes: str = ""
    """Free text."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if wrong := _wrong_entries(self):
            raise CheckpointError("model card: " + "; ".join(wrong))

    @property
    def names(self) -> tuple[str, ...] | None:
        """Class names in label order, None where unknown."""
        return None if self.label_space is None else tuple(self.label_space["names"])


def card_path(weights: str | PathLike[str]) -> Path:
    """Where the card of a weights file lies: same folder, same stem, ``.json``."""
    return Path(weights).with_suffix(".json")


def read_card(path: str | PathLike[str], *, verify: bool = True) -> Card | None:
    """The card of a weights file.

    Args:
        path: the ``.safetensors`` file (or any other checkpoint: those have no card).
        verify: compare the file's SHA-256 with the card's (0.3 s per 100 MB).

    Returns:
        The card beside the file, else the one in its metadata, else None. A ``.json`` of another program beside it
        (it says no ``isdfine`` format) counts as none.

    Raises:
        CheckpointError: the card is not JSON, has wrong entries, is of a newer format, or belongs to other weights.
    """
    path = Path(path)
    if path.suffix != _WEIGHTS_SUFFIX:
        return None
    beside = card_path(path)
    card = _parse(beside.read_bytes(), str(beside)) if beside.is_file() else None
    if card is None:
        text = _metadata(path).get(_METADATA_KEY)
        return None if text is None else _parse(text.encode(), f"{path} (metadata)")
    if verify and card.sha256 and card.sha256 != (actual := file_sha256(path)):
        raise CheckpointError(
            f"{beside}: this card belongs to weights with SHA-256 {card.sha256[:12]}..., but {path.name} has "
            f"{actual[:12]}...: the weights were replaced or damaged; bring back the matching pair, or delete the card"
        )
    return card


def write_card(weights: str | PathLike[str], card: Card) -> Path:
    """Write the card beside a weights file, atomically, with the file's SHA-256 in it.

    Raises:
        CheckpointError: the file cannot be written.
    """
    complete = replace(card, sha256=file_sha256(weights))
    path = card_path(weights)
    write_text(path, _text(complete, indent=2) + "\n")
    return path


def save_weights(
    state: Mapping[str, Tensor], path: str | PathLike[str], card: Card, *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors as safetensors with their card, the weights first; each file is replaced whole or not at all.

    Args:
        state: state dict; tensors that share memory are stored once each.
        path: final ``.safetensors`` file; its folder is created.
        card: its ``date`` is filled in where empty, its ``sha256`` always.
        metadata: further texts for the file's metadata.

    Returns:
        The card's file.

    Raises:
        CheckpointError: another suffix, or the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != _WEIGHTS_SUFFIX:
        raise CheckpointError(f"{path}: weights with a card are kept as {_WEIGHTS_SUFFIX}: give the file that ending")
    card = replace(card, sha256="", date=card.date or datetime.now(timezone.utc).isoformat(timespec="seconds"))
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    with _atomic(path) as partial:
        # Not save_file: what it writes can be read by its owner only.
        texts = {SUM_KEY: NO_SUM, "format": "pt", **(metadata or {}), _METADATA_KEY: _text(card)}
        write_with_sum(partial, save(tensors, metadata=texts))
    return write_card(path, card)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is created.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    with _atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    return digest.hexdigest()


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """``whole_file`` with the message of a weights file."""
    try:
        with whole_file(path) as partial:
            yield partial
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error.strerror}): free space or correct the folder's permissions; an "
            "earlier file of that name is untouched"
        ) from error


def _text(card: Card, indent: int | None = None) -> str:
    """JSON of a card; refuses what would come back as something else."""
    content = {"isdfine": card.format, **{key: value for key, value in asdict(card).items() if key != "format"}}
    try:
        text = json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"model card: its config is not plain data ({error}): use numbers, texts, lists"
        ) from None
    if json.loads(text) != content:
        raise CheckpointError("model card: its config does not survive JSON: use texts as keys, and lists, not tuples")
    return text


def _parse(raw: bytes, place: str) -> Card | None:
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{place}: not a model card: it is not JSON ({error}); restore or delete it") from None
    if not isinstance(content, dict) or "isdfine" not in content:
        return None
    version = content.pop("isdfine")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{place}: entry isdfine is {version!r}, expected the card's format, a number from 1 on")
    if version > FORMAT:
        raise CheckpointError(
            f"{place}: the card has format {version}, this version of isdfine reads up to {FORMAT}: update isdfine"
        )
    known = {entry.name for entry in fields(Card)} - {"format"}
    if unknown := sorted(set(content) - known):
        raise CheckpointError(f"{place}: unknown entries {', '.join(unknown)}: known are {', '.join(sorted(known))}")
    if "config" not in content:
        raise CheckpointError(f"{place}: the card has no config: write it again with isdfine convert")
    try:
        return Card(**content, format=version)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from None


def _metadata(path: Path) -> dict[str, str]:
    """Texts in the head of a safetensors file; empty where the file cannot be read: loading it will say why."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _wrong_entries(card: Card) -> list[str]:
    """What is wrong with the entries of a card, each in words."""
    wrong = [] if isinstance(card.config, dict) else [f"config is {type(card.config).__name__}, expected a mapping"]
    for name in ("licence", "source", "sha256", "version", "date", "notes"):
        if not isinstance(getattr(card, name), str):
            wrong.append(f"{name} is {getattr(card, name)!r}, expected a text")
    if isinstance(card.licence, str) and not card.licence.strip():
        wrong.append(f"licence is empty: give one, or {UNKNOWN_LICENCE!r}")
    if not fits(card.metrics, dict):
        wrong.append(f"metrics is {card.metrics!r}, expected numbers by name")
    else:
        unfit = {name: value for name, value in card.metrics.items() if not fits(value, float)}
        wrong += [f"metrics.{name} is {value!r}, expected a finite number" for name, value in unfit.items()]
    return wrong if card.label_space is None else wrong + _wrong_classes(card.label_space)


def _wrong_classes(label_space: object) -> list[str]:
    if not isinstance(label_space, dict) or set(label_space) != {"names", "category_ids"}:
        return [f"label_space is {str(label_space)[:80]}, expected null, or names and category_ids"]
    names, ids = label_space["names"], label_space["category_ids"]
    if not fits(names, list[str]):
        return ["label_space.names must be a list of texts"]
    if not fits(ids, list[int]):
        return ["label_space.category_ids must be a list of whole numbers"]
    if len(names) != len(ids):
        return [f"label_space has {len(names)} names for {len(ids)} category_ids: give one name per id"]
    if len(set(ids)) != len(ids):
        return ["label_space.category_ids are not unique: give every class an id of its own"]
    return []
