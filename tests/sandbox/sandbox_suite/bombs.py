"""Exploits that try to exhaust time, memory, output, disk space or processes.

Each is bounded, so that it does no harm when it runs without a sandbox.
"""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Effects, Exploit, changed_world, needed_a_kill

_LOW_MEMORY = {"memory_mb": 256}


def _exceeds_output(effects: Effects) -> bool:
    """Whether the program printed far more than the sandbox's default limits allow (262,144 bytes, 10,000 lines)."""
    return len(effects.stdout) > 1_000_000 or effects.stdout.count("\n") > 50_000


_ENDLESS_PROGRAMS = {
    "loop": "while True: pass",
    "loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException:\n        pass",
    "sleep": "import time\ntime.sleep(60)",
    "pause": "import signal\nsignal.pause()",
    "sleep that ignores signals": (
        "import signal, time\nfor n in signal.valid_signals():\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "while True:\n    time.sleep(1)"
    ),
    "lock that is never released": "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()",
    "big integer power": "x = 7 ** (7 ** 9)",
    "big integer to string": "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(3 ** 9_000_000)))",
    "big factorial": "import math\nmath.factorial(30_000_000)",
    "regex": "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')",
    "sum of a range": "sum(range(10 ** 12))",
    "maximum of a huge range": "max(range(10 ** 10), key=lambda i: -i)",
    "search in an infinite iterator": "import itertools\nany(x < 0 for x in itertools.count())",
    "sympy factors": "import sympy\nsympy.factorint(sympy.nextprime(10 ** 40) * sympy.nextprime(10 ** 41 + 7))",
    "sympy expansion": (
        "from sympy import *\nx = symbols('x')\nwhile True:\n    expand((x + sin(x) + exp(x) + log(x)) ** 90)"
    ),
    "numpy product": "import numpy as np\na = np.ones((1500, 1500))\nwhile True:\n    a = a @ a / 1500",
    "decimal": "import decimal\ndecimal.getcontext().prec = 10 ** 7\ndecimal.Decimal(2).sqrt()\ndecimal.Decimal(3).ln()",
    "at exit": "import atexit\n\n@atexit.register\ndef stay():\n    while True: pass",
    "finalizer": "class F:\n    def __del__(self):\n        while True: pass\n\nf = F()",
    "exception message": ("class E(Exception):\n    def __str__(self):\n        while True: pass\n\nraise E"),
    "alarm handler": (
        "import signal\n\ndef h(*a):\n    while True: pass\n\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "while True: pass"
    ),
    "memory errors caught": (
        "while True:\n    try:\n        x = [0] * (1 << 40)\n    except MemoryError:\n        pass"
    ),
}

_MEMORY_BOMBS = {
    "one block": "x = bytearray(600 << 20)\nx[::4096] = b'x' * len(x[::4096])\nprint('BREACH')",
    "list": "x = [0] * (100 << 20)\nprint('BREACH')",
    "string": "x = 'ab' * (300 << 20)\nprint('BREACH')",
    "numpy": "import numpy\nx = numpy.ones(80 << 20)\nprint('BREACH')",
    "many small blocks": "x = [bytearray(1 << 20) for _ in range(600)]\nprint('BREACH')",
    "anonymous map": "import mmap\nx = mmap.mmap(-1, 600 << 20)\nprint('BREACH')",
    "libc": "import ctypes\nc = ctypes.CDLL(None)\nc.malloc.restype = ctypes.c_void_p\n"
    "p = c.malloc(ctypes.c_size_t(600 << 20))\nif not p:\n    raise MemoryError\n"
    "ctypes.memset(p, 1, 600 << 20)\nprint('BREACH')",
    "compression": "import zlib\nx = zlib.decompress(zlib.compress(bytes(300 << 20)) )* 2\nprint('BREACH')",
    "range to list": "x = list(range(30_000_000))\nprint('BREACH')",
}

_OUTPUT_FLOODS = {
    "lines": "for _ in range(200_000):\n    print('x' * 9)",
    "one line": "import sys\nfor _ in range(300):\n    sys.stdout.write('x' * 10_000)",
    "raw writes": "import os\nfor _ in range(300):\n    os.write(1, b'x' * 10_000)",
    "one huge string": "print('x' * 3_000_000)",
    "many numbers": "for i in range(10 ** 6):\n    print(i)",
}

_RESOURCE_BOMBS = {
    "fork bomb": (
        "import os, time\nn = 0\nfor _ in range(30):\n    if os.fork() == 0:\n        time.sleep(0.2)\n        os._exit(0)\n    n += 1\n"
        "print('BREACH' if n == 30 else '')"
    ),
    "thread bomb": (
        "import threading, time\nts = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(50)]\n"
        "for t in ts:\n    t.start()\nprint('BREACH')"
    ),
    "descriptor bomb": "import os\nx = [os.open('/dev/null', os.O_RDONLY) for _ in range(200)]\nprint('BREACH')",
    "socket bomb": "import socket\nx = [socket.socket() for _ in range(100)]\nprint('BREACH')",
    "pipe bomb": "import os\nx = [os.pipe() for _ in range(100)]\nprint('BREACH')",
    "timer bomb": (
        "import ctypes\nc = ctypes.CDLL(None)\nn = 222 if W['x86'] else 107\nt = ctypes.create_string_buffer(8)\n"
        "print('BREACH' if all(c.syscall(n, 1, 0, t) == 0 for _ in range(50)) else '')"
    ),
    "memory file bomb": (
        "import os\nfor _ in range(20):\n    os.write(os.memfd_create('x'), bytes(1 << 20))\nprint('BREACH')"
    ),
}

_DISK_BOMBS = {
    "disk bomb": "with open(W['scratch'] + '/big', 'wb') as f:\n    for _ in range(40):\n        f.write(bytes(1 << 20))",
    "inode bomb": "for i in range(300):\n    open(f\"{W['scratch']}/{i}\", 'w').close()",
    "folder bomb": "import os\nos.makedirs(W['scratch'] + '/a' * 100)",
    "sparse file": "import os\nf = os.open(W['scratch'] + '/sparse', os.O_CREAT | os.O_RDWR)\nos.ftruncate(f, 1 << 40)",
    "temporary files": "import tempfile\nfor _ in range(50):\n    tempfile.mkstemp(dir=W['scratch'])",
}

BOMBS = [
    *(Exploit(f"endless {name}", code, needed_a_kill, ("timeout",)) for name, code in _ENDLESS_PROGRAMS.items()),
    *(
        Exploit(f"hungry {name}", code, statuses=("memory", "timeout"), limits=_LOW_MEMORY)
        for name, code in _MEMORY_BOMBS.items()
    ),
    *(Exploit(f"flood {name}", code, _exceeds_output, ("output",)) for name, code in _OUTPUT_FLOODS.items()),
    *(Exploit(name, code) for name, code in _RESOURCE_BOMBS.items()),
    *(Exploit(name, code, changed_world) for name, code in _DISK_BOMBS.items()),
]
