"""Exploits through processes: forks, daemons, other programs, signals to other processes, tracing."""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Exploit, changed_world

_PRINTING_PROGRAMS = {
    "fork": "import os\nif os.fork() == 0:\n    os._exit(0)\nprint('BREACH')",
    "raw clone": (
        "import ctypes, os\nn = 56 if W['x86'] else 220\np = ctypes.CDLL(None).syscall(n, 17, 0, 0, 0, 0)\n"
        "if p == 0:\n    os._exit(0)\nprint('BREACH' if p > 0 else '')"
    ),
    "raw fork": (
        "import ctypes, os\np = ctypes.CDLL(None).syscall(*((57,) if W['x86'] else (220, 17, 0, 0, 0, 0)))\n"
        "if p == 0:\n    os._exit(0)\nprint('BREACH' if p > 0 else '')"
    ),
    "start a program": "import subprocess\nsubprocess.run(['/bin/true'], check=True)\nprint('BREACH')",
    "os.system": "import os\nprint('BREACH' if os.system('true') == 0 else '')",
    "os.popen": "import os\nprint(os.popen('echo BRE\"\"ACH').read())",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})\nprint('BREACH')",
    "multiprocessing": (
        "import multiprocessing as m\np = m.get_context('fork').Process(target=print, args=('BREACH',))\np.start()\np.join()"
    ),
    "a thread": "import threading\nt = threading.Thread(target=print, args=('BREACH',))\nt.start()\nt.join()",
    "a thread pool": (
        "from concurrent.futures import ThreadPoolExecutor\nprint(ThreadPoolExecutor().submit(lambda: 'BREACH').result())"
    ),
    "process group of another": "import os\nos.getpgid(W['victim'])\nprint('BREACH')",
    "probe another process": "import os\nos.kill(W['victim'], 0)\nprint('BREACH')",
    "probe the parent": "import os\nos.kill(os.getppid() or 1, 0)\nprint('BREACH')",
    "probe its own process group": "import os\nos.killpg(0, 0)\nprint('BREACH')",
    "pidfd of another": "import os\nos.pidfd_open(W['victim'])\nprint('BREACH')",
    "priority of another": "import os\nos.setpriority(os.PRIO_PROCESS, W['victim'], 5)\nprint('BREACH')",
    "processors of another": "import os\nos.sched_setaffinity(W['victim'], os.sched_getaffinity(0))\nprint('BREACH')",
    "limits of another": (
        "import resource\nif resource.prlimit(W['victim'], resource.RLIMIT_NOFILE):\n    print('BREACH')"
    ),
    "raise its own limits": (
        "import resource as r\nsoft, hard = r.getrlimit(r.RLIMIT_NOFILE)\nr.setrlimit(r.RLIMIT_NOFILE, (hard, hard))\n"
        "print('BREACH')"
    ),
    "choose its own processors": "import os\nos.sched_setaffinity(0, os.sched_getaffinity(0))\nprint('BREACH')",
    "set its own user": "import os\nos.setresuid(*os.getresuid())\nprint('BREACH')",
    "a new memory protection": (
        "import mmap\nm = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\nprint('BREACH')"
    ),
    "new machine code": (
        "import ctypes, mmap, os\nx86 = W['x86']\n"
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes.fromhex('b82a000000c3') if x86 else bytes.fromhex('40058052c0035fd6'))\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "print('BREACH' if f() == 42 else '')"
    ),
    "code from a written page": (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096)\na = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "print('BREACH' if ctypes.CDLL(None).mprotect(ctypes.c_void_p(a), 4096, 5) == 0 else '')"
    ),
    "pipes": "import os\nos.pipe()\nprint('BREACH')",
    "copies of descriptors": "import os\nos.dup(1)\nprint('BREACH')",
    "a pseudo terminal": "import os\nos.openpty()\nprint('BREACH')",
    "session of another": ("import ctypes, os\nprint('BREACH' if ctypes.CDLL(None).getsid(W['victim']) > 0 else '')"),
    "read another's memory": (
        "import ctypes\n\nclass V(ctypes.Structure):\n    _fields_ = [('a', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n\n"
        "b = ctypes.create_string_buffer(8)\nc = ctypes.CDLL(None, use_errno=True)\nlocal = V(ctypes.addressof(b), 8)\n"
        "c.process_vm_readv(W['victim'], ctypes.byref(local), 1, ctypes.byref(V(0, 8)), 1, 0)\n"
        "print('BREACH' if ctypes.get_errno() == 14 else '')"
    ),
    "trace itself": "import ctypes\nprint('BREACH' if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else '')",
    "trace another": (
        "import ctypes, os\nc = ctypes.CDLL(None)\nprint('BREACH' if c.ptrace(0x4206, W['victim'], 0, 0) == 0 else '')"
    ),
}

_CHANGING_PROGRAMS = {
    "replace itself": "import os\nos.execv('/bin/sh', ['sh', '-c', f\"echo x > {W['scratch']}/shell\"])",
    "signal another": "import os, signal\nos.kill(W['victim'], signal.SIGKILL)",
    "signal by pidfd": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(W['victim']), signal.SIGKILL)",
    "raw tkill": ("import ctypes, os\nn = 200 if W['x86'] else 130\nctypes.CDLL(None).syscall(n, W['victim'], 9)"),
    "a daemon that writes later": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(0.2)\n"
        "        open(W['scratch'] + '/daemon', 'w').write('x')\n    os._exit(0)"
    ),
    "a child that outlives its parent": (
        "import os, signal, time\nif os.fork() == 0:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(0.3)\n"
        "    open(W['scratch'] + '/orphan', 'w').write('x')\n    os._exit(0)"
    ),
    "a shell": "import subprocess\nsubprocess.run(f\"rm {W['doomed']}\", shell=True)",
}

PROCESSES = [
    *(Exploit(name, code) for name, code in _PRINTING_PROGRAMS.items()),
    *(Exploit(name, code, changed_world) for name, code in _CHANGING_PROGRAMS.items()),
]
