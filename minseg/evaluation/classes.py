"""Which of a model's classes is which of a data set's.

CamVid is labelled with 32 classes and mostly used with the twelve into which these are grouped for
SegNet (Badrinarayanan et al., 2017). Where a model has one of these lists and a data set the other,
both are judged in the twelve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minseg.errors import InputError
from minseg.evaluation.labels import NOT_LABELLED, simplified
from minseg.images.cards import Classes, load_classes

COARSE = "camvid12"

#: The other names, CamVid's 32 among them, of what the twelve classes hold.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Sky": ("Sky",),
    "Building": ("Archway", "Bridge", "Building", "Tunnel", "Wall"),
    "Pole": ("Pole", "Column_Pole", "TrafficCone"),
    "Road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "Pavement": ("Pavement", "Sidewalk", "ParkingBlock", "RoadShoulder"),
    "Tree": ("Tree", "VegetationMisc"),
    "SignSymbol": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "Fence": ("Fence",),
    "Vehicle": ("Vehicle", "Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    "Pedestrian": ("Pedestrian", "Animal", "CartLuggagePram", "Child"),
    "Bike": ("Bike", "Bicyclist", "MotorcycleScooter"),
    "Unlabeled": tuple(sorted(NOT_LABELLED)),
}

#: What a model predicts that the data set has no class for.
OTHER, OTHER_COLOUR = "(other)", (255, 255, 255)


@dataclass(frozen=True)
class Match:
    """How labels and predictions become indices of the ``classes`` that are judged.

    ``truth`` maps the data set's indices, ``predicted`` the model's (both int64 arrays);
    ``judged`` (bool) says which classes get a figure; ``notes`` tell a reader what was decided.
    """

    classes: Classes
    truth: np.ndarray
    predicted: np.ndarray
    judged: np.ndarray
    notes: tuple[str, ...]

    @property
    def ignored(self) -> tuple[int, ...]:
        """Indices of the classes whose pixels are not judged."""
        names = self.classes.names
        return tuple(names.index(name) for name in self.classes.ignored)


def match_unnamed(data: Classes, n: int | None) -> Match:
    """A model whose ``n`` classes have no names (None: an index map, which doesn't say how many).

    They are taken for the data set's, in order, with or without the ignored ones at the end.
    Raises InputError where that doesn't fit.
    """
    labelled = len(data.names) - len(data.ignored)
    ends_with_ignored = data.names[labelled:] == data.ignored
    if n not in (None, len(data.names)) and not (n == labelled and ends_with_ignored):
        raise InputError(
            f"the model has {n} classes without names, the data set {len(data.names)}: "
            "name the model's with --classes"
        )
    match = match_named(data, data.names[:n])
    note = "the model does not name its classes: taken for the data set's, in order"
    return replace(match, notes=(note,))


def match_named(data: Classes, model: Sequence[str]) -> Match:
    """Match by name, ignoring case and punctuation. Raises InputError where nothing matches."""
    names = [simplified(name) for name in data.names]
    wanted = [names.index(n) if n in names else None for n in map(simplified, model)]
    match = _match(data, list(range(len(names))), wanted, model)
    grouped = _in_twelve(data, model)
    if grouped is not None and grouped.judged.sum() > match.judged.sum():
        match = grouped
    if not match.judged.any():
        raise InputError(
            f"the model's classes ({', '.join(model)}) and the data set's "
            f"({', '.join(data.names)}) have no name in common: name the model's with --classes"
        )
    return match


def _in_twelve(data: Classes, model: Sequence[str]) -> Match | None:
    """Both sides in CamVid's twelve classes; None where a class of the data set is in none."""
    coarse = load_classes(COARSE)
    group = {
        simplified(name): coarse.names.index(twelve)
        for twelve, names in GROUPS.items()
        for name in names
    }
    truth = [group[name] for name in map(simplified, data.names) if name in group]
    if len(truth) < len(data.names):
        return None
    match = _match(coarse, truth, [group.get(simplified(name)) for name in model], model)
    note = (
        f"the data set's {len(data.names)} classes and the model's {len(model)} are grouped into "
        "CamVid's twelve"
    )
    return replace(match, notes=(note, *match.notes))


def _match(
    classes: Classes, truth: Sequence[int], wanted: Sequence[int | None], model: Sequence[str]
) -> Match:
    """The match where the data set's classes have the indices ``truth`` in ``classes``, and the
    model's, called ``model``, those in ``wanted``: None for one that has no counterpart.
    """
    n = len(classes.names)
    judged = [
        i in wanted and i in truth and classes.names[i] not in classes.ignored for i in range(n)
    ]
    unknown = [
        name
        for i, name in enumerate(classes.names)
        if i in truth and i not in wanted and name not in classes.ignored
    ]
    foreign = [name for name, i in zip(model, wanted, strict=True) if i is None]
    notes = []
    if unknown:
        notes.append(
            f"the model does not know {', '.join(unknown)}: no figures for these, but their pixels "
            "count against the classes that they are taken for"
        )
    if foreign:
        notes.append(f"the data set has no {', '.join(foreign)}: wrong wherever predicted")
        classes = Classes(
            (*classes.names, OTHER), (*classes.colours, OTHER_COLOUR), classes.ignored
        )
        judged.append(False)
    predicted = [n if i is None else i for i in wanted]
    return Match(
        classes,
        np.array(truth, np.int64),
        np.array(predicted, np.int64),
        np.array(judged),
        tuple(notes),
    )
