"""Raw system calls: an exploit succeeds if its call is not refused, even if the kernel then rejects the arguments."""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Exploit

# A program that makes one system call.
_CALL = """
import ctypes, errno, os
x86_number, arm_number = {numbers!r}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
result = libc.syscall(ctypes.c_long(x86_number if W['x86'] else arm_number), {arguments})
error = ctypes.get_errno()
print('BREACH' if result >= 0 or error not in (errno.EPERM, errno.ENOSYS, errno.EACCES) else errno.errorcode[error])
"""

_ENTER_NAMESPACES = (
    "import ctypes\nc = ctypes.CDLL(None)\nif c.unshare(0x10000000 | 0x20000) != 0:\n    raise SystemExit('no')\n"
)

# name: (number on x86_64, number on aarch64, arguments); no call needs privileges or does harm
_NUMBERED_CALLS = {
    "io_uring_setup": (425, 425, "1, ctypes.create_string_buffer(120)"),
    "io_uring_register": (427, 427, "-1, 0, 0, 0"),
    "keyctl": (250, 219, "0, -3, 0"),
    "add_key": (248, 217, "b'user', b'held', b'x', 1, -1"),
    "userfaultfd": (323, 282, "0x10000"),
    "seccomp": (317, 277, "2, 0, ctypes.create_string_buffer(b'\\0\\0\\xff\\x7f')"),
    "landlock": (444, 444, "0, 0, 1"),
    "clone3": (435, 435, "0, 0"),
    "ptrace": (101, 117, "0x4206, 2 ** 22 - 1, 0, 0"),
    "process_vm_writev": (311, 271, "2 ** 22 - 1, 0, 0, 0, 0, 0"),
    "pidfd_getfd": (438, 438, "-1, 0, 0"),
    "memory policy": (238, 237, "0, 0, 0"),
    "move_pages": (279, 239, "0, 0, 0, 0, 0, 0"),
    "shared memory of System V": (29, 194, "0, 4096, 0o1600"),
    "message queue of System V": (68, 186, "0, 0o1600"),
    "semaphores of System V": (64, 190, "0, 1, 0o1600"),
    "signalfd": (289, 74, "-1, ctypes.create_string_buffer(8), 8, 0"),
    "eventfd": (290, 19, "0, 0"),
    "timerfd": (283, 85, "0, 0"),
    "epoll": (291, 20, "0"),
    "inotify": (294, 26, "0"),
    "name_to_handle_at": (303, 264, "-1, b'/', 0, 0, 0"),
    "personality": (135, 92, "0xffffffff"),
    "prctl": (157, 167, "3, 0, 0, 0, 0"),
    "arch_prctl or sysinfo": (99, 179, "ctypes.create_string_buffer(128)"),
    "splice": (275, 76, "-1, 0, -1, 0, 1, 0"),
    "vmsplice": (278, 75, "-1, 0, 0, 0"),
    "rseq": (334, 293, "0, 0, 0, 0"),
    "membarrier": (324, 283, "0, 0, 0"),
    "timer_create": (222, 107, "1, 0, ctypes.create_string_buffer(8)"),
    "set_tid_address": (218, 96, "0"),
    "sched_setscheduler": (144, 119, "0, 99, 0"),
    "fcntl on the output": (72, 25, "1, 3, 0"),
    "fanotify": (300, 262, "0, 0"),
    "mlock": (149, 228, "0, 0"),
    "process_madvise": (440, 440, "-1, 0, 0, 0, 0"),
    "kcmp": (312, 272, "2 ** 22 - 1, 2 ** 22 - 2, 0, 0, 0"),
    "perf_event_open": (298, 241, "0, 0, -1, -1, 0"),
    "bpf": (321, 280, "0, 0, 0xffffff"),
    "execveat": (322, 281, "-1, b'', 0, 0, 0"),
    "pselect": (270, 72, "0, 0, 0, 0, ctypes.create_string_buffer(16), 0"),
    "futex with priorities": (202, 98, "ctypes.create_string_buffer(8), 6, 0, 0, 0, 0"),
    "huge pages": (9, 222, "0, 2 << 20, 3, 0x40022 | (63 << 26), -1, 0"),
    "openat2 without a size": (437, 437, "-1, b'', 0, 0"),
}

_PRINTING_PROGRAMS = {
    "enter a user namespace": "import ctypes\nprint('BREACH' if ctypes.CDLL(None).unshare(0x10000000) == 0 else '')",
    "mount in a new namespace": _ENTER_NAMESPACES
    + ("r = c.mount(b'none', W['scratch'].encode(), b'tmpfs', 0, None)\nprint('BREACH' if r == 0 else '')"),
    "chroot in a new namespace": _ENTER_NAMESPACES + "print('BREACH' if c.chroot(b'/') == 0 else '')",
    "host name in a new namespace": (
        "import ctypes\nc = ctypes.CDLL(None)\nif c.unshare(0x10000000 | 0x4000000) == 0 and c.sethostname(b'x', 1) == 0:\n"
        "    print('BREACH')"
    ),
    "call ioctl on the output": (
        "import ctypes\nn = 16 if W['x86'] else 29\n"
        "print('BREACH' if ctypes.CDLL(None).syscall(n, 1, 0x541B, ctypes.create_string_buffer(8)) == 0 else '')"
    ),
    "join a namespace": (
        "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nr = c.setns(-1, 0)\n"
        "print('BREACH' if ctypes.get_errno() == 9 else '')"
    ),
    "x32 numbers": (
        "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nif not W['x86']:\n    print('BREACH')\n"
        "r = c.syscall(ctypes.c_long(0x40000000 + 39))\nprint('BREACH' if r > 0 or ctypes.get_errno() == 38 else r)"
    ),
}

SYSCALLS = [
    *(
        Exploit(f"call {name}", _CALL.format(numbers=(x86, arm), arguments=arguments))
        for name, (x86, arm, arguments) in _NUMBERED_CALLS.items()
    ),
    *(Exploit(name, code) for name, code in _PRINTING_PROGRAMS.items()),
]
