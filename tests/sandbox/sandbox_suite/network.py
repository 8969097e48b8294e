"""Exploits through sockets of every kind."""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Exploit, changed_world

_SENDING_PROGRAMS = {
    "TCP": "import socket\nsocket.create_connection(('127.0.0.1', W['tcp'])).sendall(b'x')",
    "UDP": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', W['udp']))",
    "unix socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(W['unix'])\ns.sendall(b'x')",
    "abstract unix socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(W['abstract'])\ns.sendall(b'x')",
    "urllib": "import urllib.request\ntry:\n    urllib.request.urlopen(f\"http://127.0.0.1:{W['tcp']}/\", timeout=0.5)\n"
    "except TimeoutError:\n    pass",
    "libc connect": (
        "import ctypes, struct\nc = ctypes.CDLL(None)\ns = c.socket(2, 1, 0)\n"
        "a = struct.pack('=HH4s8x', 2, int.from_bytes(W['tcp'].to_bytes(2, 'big'), 'little'), bytes([127, 0, 0, 1]))\n"
        "c.connect(s, a, 16)\nc.send(s, b'x', 1, 0)"
    ),
    "inherited socket": (
        "import os\nfor d in range(3, 1024):\n    try:\n        os.write(d, b'x')\n    except OSError:\n        pass"
    ),
}

_PRINTING_PROGRAMS = {
    "listen": "import socket\nsocket.create_server(('127.0.0.1', 0))\nprint('BREACH')",
    "a pair of sockets": "import socket\nsocket.socketpair()\nprint('BREACH')",
    "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nprint('BREACH')",
    "IPv6": "import socket\nsocket.socket(socket.AF_INET6)\nprint('BREACH')",
    "interfaces": "import socket\nprint('BREACH' if socket.if_nameindex() else '')",
    "kernel cryptography": (
        "import ctypes, errno\nc = ctypes.CDLL(None, use_errno=True)\nr = c.socket(38, 5, 0)\n"
        "print('BREACH' if r >= 0 or ctypes.get_errno() == errno.EAFNOSUPPORT else '')"
    ),
    "an event loop": "import asyncio\nasyncio.run(asyncio.sleep(0))\nprint('BREACH')",
}
NETWORK = [
    *(Exploit(name, code, changed_world) for name, code in _SENDING_PROGRAMS.items()),
    *(Exploit(name, code) for name, code in _PRINTING_PROGRAMS.items()),
]
