"""VirtualBox's own VBoxManage: `import`, `showvminfo --machinereadable`, `clonemedium`. No machine is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ovfbuild.errors import ProgramError
from ovfbuild.files import digest_of
from tests.importers.imported import Import, Imported
from tests.importers.sandbox import WORK, Sandbox

_LINE = re.compile(r'^"?(?P<key>[^"=]+)"?=(?P<value>.*)$')


class VirtualBox:
    """A VirtualBox of its own, with its settings and machines in `work`."""

    def __init__(self, root: Path, work: Path) -> None:
        self._work = work
        self._sandbox = Sandbox(root, work, {"VBOX_USER_HOME": f"{WORK}/settings"})
        self.manage("setproperty", "machinefolder", f"{WORK}/machines")

    def manage(self, *argv: str, shown: Mapping[str, Path] | None = None) -> str:
        """Runs a subcommand of VBoxManage; its service lives no longer than that."""
        return self._sandbox.run("/usr/lib/virtualbox/VBoxManage", *argv, shown=shown)

    def version(self) -> str:
        return self.manage("--version").strip()

    def os_types(self) -> dict[str, str]:
        """By the title that showvminfo gives, the OSType of a descriptor: `Debian (64-bit)` is `Debian_64`."""
        text = self.manage("list", "ostypes")
        return {title: name for name, title in re.findall(r"(?m)^ID / Description: (\S+) -- (.+?)\s*$", text)}

    def take(self, ova: Path) -> Import:
        """Imports the OVA, which has one machine, reads its disks out as raw images, and removes it again."""
        name = f"{ova.stem}-{digest_of(str(ova))[:8]}"
        inside = f"/tmp/{name}.ova"
        said = self.manage("import", inside, "--dry-run", shown={inside: ova})
        licence = ("--eula", "accept") if "End-user license" in said else ()
        said += self._import(inside, ova, "--vsys", "0", "--vmname", name, *licence)
        assert "Successfully imported the appliance." in said, said
        try:
            seen = _read(self.manage("showvminfo", name, "--machinereadable"))
            images = tuple(self._raw(name, number, path) for number, path in enumerate(_disks(seen).values()))
            machine = _machine(seen, self.os_types())
        finally:
            self.manage("unregistervm", name, "--delete")
        warnings = tuple(line for line in said.splitlines() if "warning" in line.lower())
        return Import(machine, images, warnings, seen)

    def _import(self, inside: str, ova: Path, *how: str) -> str:
        """Tries again where VirtualBox says that a digest is wrong: what is damaged stays so.

        Of a good OVA 7.2.22 said it once in 38 times, on a machine with much to do: it had hashed all but the last
        5120 bytes of the VMDK, which are its tables behind the last grain.
        """
        for left in (2, 1, 0):
            try:
                return self.manage("import", inside, *how, shown={inside: ova})
            except ProgramError as error:
                if "VERR_NOT_EQUAL" not in error.message or not left:
                    raise
        raise AssertionError("it has returned or raised")

    def _raw(self, name: str, number: int, medium: str) -> Path:
        file = f"{name}-{number}.raw"
        self.manage("clonemedium", "disk", medium, f"{WORK}/{file}", "--format", "RAW")
        self.manage("closemedium", "disk", f"{WORK}/{file}")
        return self._work / file


def _read(text: str) -> dict[str, str]:
    found = (_LINE.match(line) for line in text.splitlines())
    return {one["key"]: one["value"].strip('"') for one in found if one}


def _controllers(seen: dict[str, str]) -> dict[str, str]:
    """By name, the type of each."""
    names = {key.removeprefix("storagecontrollername"): value for key, value in seen.items()}
    return {value: seen[f"storagecontrollertype{key}"] for key, value in names.items() if key.isdigit()}


def _attached(seen: dict[str, str]) -> dict[str, str]:
    """`SATA-0-0`: what is there; port by port."""
    slots = [rf"{re.escape(name)}-\d+-\d+" for name in _controllers(seen)]
    return {key: value for key, value in seen.items() if value != "none" and any(re.fullmatch(s, key) for s in slots)}


def _is_drive(medium: str) -> bool:
    return medium == "emptydrive" or medium.endswith(".iso")


def _disks(seen: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in _attached(seen).items() if not _is_drive(value)}


def _machine(seen: dict[str, str], os_types: dict[str, str]) -> Imported:
    types = _controllers(seen)
    attached = {key: types[key.rsplit("-", 2)[0]] for key in _attached(seen)}
    disks = _disks(seen)
    slots = [str(slot) for slot in range(1, 9) if seen.get(f"nic{slot}", "none") != "none"]
    return Imported(
        cpus=int(seen["cpus"]),
        memory=int(seen["memory"]),
        os_type=os_types.get(seen["ostype"], seen["ostype"]),
        firmware="efi" if seen["firmware"].upper().startswith("EFI") else "bios",
        disks=tuple(attached[key] for key in disks),
        drives=tuple(kind for key, kind in attached.items() if key not in disks),
        nics=tuple(f"{seen[f'nictype{slot}']}/{_network(seen, slot)}" for slot in slots),
    )


def _network(seen: dict[str, str], slot: str) -> str:
    kind = seen[f"nic{slot}"]
    return seen[f"intnet{slot}"] if kind == "intnet" else kind
