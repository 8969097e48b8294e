"""The system calls that a program may make, with their numbers on the two supported architectures.

Every number comes from the kernel's headers; None means that the call does not exist on that architecture. A call that
is in no table of this file fails with EPERM.
"""

from __future__ import annotations

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of each machine name; the filter refuses other calling conventions."""

_X86_64, _AARCH64 = 0, 1
"""The positions of the architectures' numbers in an entry of the tables."""

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # memory; mmap, mprotect and madvise are in CONDITIONAL
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    # time
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    # receiving signals; sending is refused
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    # information about the process itself
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getcwd": (79, 17),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getrandom": (318, 278),
    # the process's three descriptors; read and write are in CONDITIONAL
    "close": (3, 57),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Calls that are allowed with any arguments."""

CONDITIONAL: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "futex": (202, 98),
}
"""Calls that are allowed only with the arguments in `seccomp.CONDITIONS`."""

EXPECTED_ERROR: dict[str, tuple[int, int]] = {"clone3": (435, 435), "ioctl": (16, 29)}
"""Calls that fail with an error that libc handles, instead of EPERM; see `seccomp.EXPECTED_ERRORS`."""

DEADLY: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # other programs, namespaces and file systems
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # large kernel subsystems
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the machine itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
"""Calls that no legitimate program makes. A program that makes such a call is killed."""


def select_number(entry: tuple[int | None, int | None], machine: str) -> int | None:
    """The number of a table's entry on `machine`; None if the call does not exist there."""
    return entry[_X86_64 if machine == "x86_64" else _AARCH64]
