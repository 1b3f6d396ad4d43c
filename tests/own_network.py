"""Runs a command in a network of its own, with nothing in it but a name server, and prints the names that it was asked.

``unshare --net --mount python own_network.py COMMAND …``: the last line of stdout is a JSON object with the command's
exit status and the names. Nothing leaves the machine: the network has only a loopback interface.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_NO_SUCH_NAME = b"\x81\x83"


def _answer(server: socket.socket, names: list[str]) -> None:
    while True:
        question, asker = server.recvfrom(4096)
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        names.append(".".join(labels))
        server.sendto(question[:2] + _NO_SUCH_NAME + question[4:6] + bytes(6) + question[12:], asker)


def main() -> None:
    """Run the command of the arguments."""
    with socket.socket() as loopback:
        fcntl.ioctl(loopback, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP, b""))
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write("nameserver 127.0.0.1\n")
        resolver.flush()
        subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
        names: list[str] = []
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 53))
        threading.Thread(target=_answer, args=(server, names), daemon=True).start()
        done = subprocess.run(sys.argv[1:], timeout=300, check=False, stdout=sys.stderr)
    sys.stdout.write(json.dumps({"status": done.returncode, "names": names}))


if __name__ == "__main__":
    main()
