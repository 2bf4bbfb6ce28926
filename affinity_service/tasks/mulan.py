"""Mulan's XML lists of labels: which attributes of an ARFF file are tasks."""

from __future__ import annotations

from xml.etree import ElementTree

from affinity_service.errors import UserError
from affinity_service.tasks.files import read_bytes


def read_labels(path: str) -> list[str]:
    """The names of all labels, nested ones too, in the order of the file.

    Raises
    ------
    UserError
        The file cannot be read, is not XML, or has no label, a label without a name or one name twice.
    """
    content = read_bytes(path)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path}: a list of labels needs no DOCTYPE and no entities; remove them")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not valid XML: {error}") from error
    names: list[str] = []
    for element in root.iter():
        if element.tag.rpartition("}")[2] != "label":
            continue
        name = element.get("name")
        if not name:
            raise UserError(f'{path}: label {len(names) + 1} has no name; expected <label name="…"></label>')
        if name in names:
            raise UserError(f"{path}: label `{name}` occurs twice; names must be unique")
        names.append(name)
    if not names:
        raise UserError(f'{path}: no label found in <{root.tag.rpartition("}")[2]}>; expected <label name="…"></label>')
    return names
