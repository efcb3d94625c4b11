"""Reads one value, or one child, of a descriptor's element, and goes on past what is missing or wrong.

`Values` collects on the way what is wrong, and what no model is there for; `ovf_reader` reads elements with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ovfbuild.formats import envelope as model
from ovfbuild.formats.fault import Fault
from ovfbuild.formats.ovf import OVF, RASD, RASD_CHILDREN, Element

_T = TypeVar("_T")
SEE = "see DSP0243 1.1 for what a descriptor says"
RASD_NAMES = frozenset(name for _, name in RASD_CHILDREN)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_LARGEST_NUMBER = 30
_MOST_FAULTS = 50
_STANDARD_RASD = frozenset(
    (
        "Caption",
        "ChangeableType",
        "ConfigurationName",
        "ConsumerVisibility",
        "Generation",
        "InstanceId",
        "Limit",
        "MappingBehavior",
        "OtherResourceType",
        "PoolID",
        "Reservation",
        "SoID",
        "SoOrgID",
        "VirtualQuantityUnits",
        "Weight",
    )
)
"""Of CIM_ResourceAllocationSettingData, what importers skip; DSP8023 has them."""


def name_of(element: Element) -> str:
    """The local name of OVF's own elements, {namespace}name of others."""
    return str(element.tag).removeprefix(f"{{{OVF}}}")


def line_of(element: Element) -> int:
    return element.sourceline or 0


class Values:
    """Collects what no model is there for, and what is wrong, while it reads the rest."""

    def __init__(self) -> None:
        self.unread: list[model.Unread] = []
        self.faults: list[Fault] = []

    # One value

    def fault(self, element: Element, what: str, hint: str = SEE, rule: str = "descriptor-incomplete") -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(Fault(rule, what[:300], line_of(element), hint))

    def get(self, element: Element, name: str, namespace: str = OVF) -> str | None:
        """An attribute, though it may lack its prefix."""
        value = element.get(f"{{{namespace}}}{name}")
        if value is None and (value := element.get(name)) is not None:
            text = f"{name_of(element)} has the attribute {name} without a prefix"
            self.fault(element, text, rule="descriptor-prefix")
        return value

    def need(self, element: Element, name: str, namespace: str = OVF) -> str:
        value = self.get(element, name, namespace)
        if value is None:
            self.fault(element, f"{name_of(element)} lacks the attribute {name}")
        return value or ""

    def only(self, element: Element, name: str, namespace: str = OVF) -> Element | None:
        found = element.findall(f"{{{namespace}}}{name}")
        if len(found) > 1:
            self.fault(found[1], f"{name} is there twice in one {name_of(element)}", "importers read only one")
        return found[0] if found else None

    def text(self, element: Element, name: str, namespace: str = OVF) -> str | None:
        """The text of the only child of that name; None without one."""
        child = self.only(element, name, namespace)
        return None if child is None else child.text or ""

    def needed(self, element: Element, name: str, namespace: str = OVF) -> str:
        text = self.text(element, name, namespace)
        if text is None:
            self.fault(element, f"{name_of(element)} lacks the element {name}")
        return text or ""

    def number(self, element: Element, name: str, text: str) -> int:
        digits = text.strip()
        if not digits.isascii() or not digits.isdigit() or len(text) > _LARGEST_NUMBER:
            if text:
                self.fault(element, f"{name} is {text[:40]!r}, no number")
            return 0
        return int(digits)

    def maybe_number(self, element: Element, name: str, text: str | None) -> int | None:
        return None if text is None else self.number(element, name, text)

    def boolean(self, element: Element, name: str, text: str | None, default: bool) -> bool:
        if text is None:
            return default
        if text.strip() not in _BOOLEANS:
            self.fault(element, f"{name} is {text[:40]!r}, neither true nor false")
        return _BOOLEANS.get(text.strip(), default)

    def required(self, element: Element) -> bool:
        return self.boolean(element, "required", self.get(element, "required"), True)

    def note(self, element: Element, known: frozenset[str]) -> None:
        """Lists those children that are not `known`, nor of CIM's own."""
        for child in element:
            name = name_of(child)
            if name not in known and name.removeprefix(f"{{{RASD}}}") not in _STANDARD_RASD | RASD_NAMES:
                self.unread.append(model.Unread(name, line_of(child), self.required(child)))

    def all(self, element: Element, name: str, read: Callable[[Element], _T]) -> tuple[_T, ...]:
        return tuple(read(child) for child in element.findall(f"{{{OVF}}}{name}"))

    def maybe(self, element: Element, name: str, read: Callable[[Element], _T]) -> _T | None:
        child = self.only(element, name)
        return None if child is None else read(child)
