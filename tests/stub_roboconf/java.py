"""What the agent's Java writes and reads: serialized messages (Java Object Serialization 6.4), and properties."""

from __future__ import annotations

import re
import struct

PACKAGE = "net.roboconf.messaging.api.messages."
NOTIF = PACKAGE + "from_agent_to_dm."
_STRING = "Ljava/lang/String;"
_OBJECT, _CLASS, _TEXT, _AGAIN, _END, _NULL = 0x73, 0x72, 0x74, 0x71, 0x78, 0x70


def _utf(text: str) -> bytes:
    octets = text.encode("utf-8")
    return struct.pack(">H", len(octets)) + octets


def _text(text: str) -> bytes:
    return bytes([_TEXT]) + _utf(text)


def _class(name: str, uid: int, fields: list[bytes]) -> bytes:
    head = bytes([_CLASS]) + _utf(name) + struct.pack(">qBH", uid, 2, len(fields))
    return head + b"".join(fields) + bytes([_END])


def _supers(first: bytes) -> bytes:
    """AbstractMsgNotif and Message; `first` is the type of a string: in full, or where it stood before."""
    again = bytes([_AGAIN]) + struct.pack(">I", 0x7E0001)
    fields = [b"L" + _utf("applicationName") + first, b"L" + _utf("scopedInstancePath") + again]
    notif = _class(NOTIF + "AbstractMsgNotif", 8098680203487017313, fields)
    return notif + _class(PACKAGE + "Message", -4397827141046520759, []) + bytes([_NULL])


def heartbeat(application: str, path: str, address: str, *, model_required: bool = True) -> bytes:
    """MsgNotifHeartbeat: who it is and where; primitives stand before objects, superclasses' values first."""
    fields = [b"Z" + _utf("modelRequired"), b"L" + _utf("ipAddress") + _text(_STRING)]
    described = _class(NOTIF + "MsgNotifHeartbeat", -5112964737944073719, fields)
    again = bytes([_AGAIN]) + struct.pack(">I", 0x7E0001)
    values = _text(application) + _text(path) + bytes([model_required]) + _text(address)
    return b"\xac\xed\x00\x05" + bytes([_OBJECT]) + described + _supers(again) + values


def machine_down(application: str, path: str) -> bytes:
    """MsgNotifMachineDown, sent at a clean stop."""
    described = _class(NOTIF + "MsgNotifMachineDown", 2204000792853175646, [])
    # The first class has handle 0, the second 1: its string's type is the third.
    supers = _supers(_text(_STRING)).replace(struct.pack(">I", 0x7E0001), struct.pack(">I", 0x7E0002))
    return b"\xac\xed\x00\x05" + bytes([_OBJECT]) + described + supers + _text(application) + _text(path)


def properties(text: str) -> dict[str, str]:
    """java.util.Properties.load, but for continued lines."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*((?:\\.|[^\\=:\s])+)\s*[=:\s]?\s*(.*)", line)
        if match and not line.lstrip().startswith(("#", "!")):
            found[_plain(match[1])] = _plain(match[2])
    return found


def _plain(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        word = match[1]
        return chr(int(word[1:], 16)) if len(word) == 5 else {"t": "\t", "n": "\n", "r": "\r"}.get(word, word)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", one, text).strip()
